/* Runs of models on the open case, and refining an organ by marks. */

import * as jobs from './job.js';
import { filled } from './lasso.js';
import { allMarks, inVoxels, refined, removeMarks } from './marks.js';

/** Runs the chosen model, and loads its prediction as the label map that is edited. */
export function runModel(session) {
  const { model } = session.state;
  return run(session, model, () => jobs.start(model, session.image));
}

/** Goes on with a run that began before the page was loaded again. */
export async function resumeModel(session) {
  const names = session.state.models.map(({ name }) => name);
  const job = await jobs.unfinished(names, session.image).catch(() => undefined); // the case can be edited without it
  if (job && !session.state.job) {
    session.store.set({ model: job.kind });
    await run(session, job.kind, async () => job);
  }
}

/** Shows a run until it ends, and loads its prediction. `begin` returns its job; null if the result is stored already. */
async function run(session, model, begin) {
  const timeLeft = jobs.timer();
  const again = { title: 'Run it again', run: () => run(session, model, () => jobs.start(model, session.image)) };
  try {
    session.store.set({ message: null, job: { model, state: 'starting', stage: '', share: 0, organs: {}, left: null } });
    let job = await begin();
    if (job) {
      const show = about => session.store.set({ job: { ...about, model, left: timeLeft(about) } });
      show(job);
      job = await jobs.follow(job.id, show);
      if (job.state === 'cancelled') {
        const why = job.reason ? 'The server has cancelled the run: ' + job.reason + '.' : 'Cancelled.';
        session.say('info', why + ' Nothing has changed.', [again]);
        return;
      }
      if (job.state !== 'done') {
        throw new Error(job.error || 'The model failed.');
      }
    }
    await session.refresh();
    const made = session.state.about.versions.find(version => version.tag !== 'final' && (version.model || version.tag) === model);
    if (!made) {
      throw new Error('The server did not store the prediction.');
    }
    const problem = await session.load(made.tag, made.version, { undoable: true });
    session.say('done', ['Segmented by ' + model + '.', problem].filter(Boolean).join(' '));
  } catch (error) {
    session.say('error', 'Not done. ' + error.message, [again]);
  } finally {
    session.store.set({ job: null });
  }
}

/** Cancels the running model. */
export function cancelModel(session) {
  const { job } = session.state;
  if (job?.id) {
    jobs.cancel(job.id).catch(error => session.say('error', error.message));
  }
}

/** Notes a new mark; in live mode, applies it. */
export function marked(session) {
  session.store.set({ marks: allMarks().length });
  if (session.state.live) {
    applyMarks(session);
  }
}

/** Adds the inside of a lasso to the chosen organ. */
export function lassoed(session, lasso) {
  const { volume, layer, state } = session;
  const outline = lasso.data.contour.polyline.map(point => volume.voxelAt(point));
  removeMarks(session.services, [lasso]);
  session.doing('', async () => {
    layer.write(filled(outline, { voxels: layer.read(), size: volume.size, label: state.active, locked: session.locked() }));
  });
}

/** Removes all marks that were not applied. */
export function clearMarks(session) {
  removeMarks(session.services, allMarks());
  session.store.set({ marks: 0 });
}

/** Refines the chosen organ by all marks on the screen. Marks that are drawn meanwhile are applied afterwards. */
export async function applyMarks(session) {
  const marks = allMarks();
  if (!marks.length || session.refining || session.state.frozen) {
    return;
  }
  const label = session.state.active;
  const organ = session.state.organs.find(one => one.label === label);
  session.refining = new AbortController();
  await session.doing('Refining ' + organ.title + ' …', async () => {
    try {
      const sent = session.layer.read();
      const request = { image: session.image, mark: session.mark, label, marks: inVoxels(marks, session.volume), sent, locked: session.locked() };
      const voxels = await refined({ ...request, current: () => session.layer.read() }, session.refining.signal);
      const changed = session.layer.write(voxels);
      session.say('done', changed ? organ.title + ' was refined.' : organ.title + ': the marks changed nothing.');
    } finally {
      removeMarks(session.services, marks);
    }
  });
  session.refining = null;
  session.store.set({ marks: allMarks().length });
  if (session.state.live && session.state.marks) {
    applyMarks(session);
  }
}

/** Cancels the request that refines an organ. */
export const cancelMarks = session => session.refining?.abort();
