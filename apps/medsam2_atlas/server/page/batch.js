/* The run of a model on all cases without a signed-off label map: a button for those who may start it, and its progress for everybody. */

import { button, byId, counted, duration, element, fill } from './dom.js';
import { ask } from './server.js';

/**
 * Shows the run.
 * @param {object} summary the answer of `worklist/summary`
 * @param {(text: string) => void} say shows a message
 * @param {() => void} reload loads the page's content again
 */
export function showBatch({ batch, may, models, counts }, say, reload) {
  const box = byId('batch');
  const left = ['new', 'predicted', 'in work'].reduce((sum, state) => sum + (counts[state] || 0), 0); // without a final label map
  const able = models.filter(model => !model.missing && model.stored);
  box.hidden = !batch.running && !(may.batch && left && able.length);
  if (box.hidden) {
    return;
  }
  const request = async (path, query, method, done) => {
    try {
      await ask(path, query, { method });
      say(done);
    } catch (error) {
      say(error.message);
    }
    reload();
  };
  if (batch.running) {
    const stop = may.batch && button('batch-stop', 'Stop', () => request('batch/infer/', {}, 'DELETE', 'The run was stopped. What is done is kept.'), { class: 'plain' });
    fill(byId('batch-state'), element('span', { class: 'small', role: 'status', textContent: progressOf(batch.state) }), stop || null);
    byId('batch-start').hidden = true;
    return;
  }
  fill(byId('batch-state'), element('span', { class: 'small', textContent: batch.state ? resultOf(batch.state) : '' }));
  byId('batch-start').hidden = !may.batch;
  const choice = byId('batch-model');
  if (document.activeElement !== choice) { // the person may be choosing
    const chosen = choice.value;
    fill(choice, ...able.map(({ name, title }) => element('option', { value: name, textContent: name, title })));
    choice.value = able.some(model => model.name === chosen) ? chosen : able[0]?.name || '';
  }
  byId('batch-run').textContent = 'Segment ' + counted(left, 'open case');
  byId('batch-run').onclick = () =>
    request('batch/infer/' + encodeURIComponent(choice.value), { images: 'unlabeled' }, 'POST', choice.value + ' segments the cases now.');
}

/** Returns how far a run is, in words. Its process writes the first state after it has loaded the models. */
function progressOf(state) {
  if (!state || state.ended) {
    return 'The run begins …';
  }
  const ended = state.kept + state.done + state.failed;
  const failed = state.failed ? ', ' + state.failed + ' failed' : '';
  const left = state.seconds_left === null ? '' : ' · about ' + duration(state.seconds_left) + ' left';
  return state.model + ': ' + ended + ' of ' + counted(state.total, 'case') + failed + left;
}

/** Returns the result of the last run, in words. */
function resultOf({ model, done, failed, kept }) {
  const parts = ['Last run, ' + model + ': ' + done + ' segmented', kept && kept + ' were up to date', failed && failed + ' failed (the log has the reasons)'];
  return parts.filter(Boolean).join(', ') + '.';
}
