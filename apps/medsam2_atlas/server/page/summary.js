/* The upper part of the worklist: progress of the team, the next case, the queue, and the models. */

import { button, byId, counted, duration, element, fill, words } from './dom.js';
import { classOf } from './rows.js';
import { STATES } from './filters.js';
import { ask } from './server.js';

/** Order of the segments of the progress bar: what is done comes first. */
const DONE_FIRST = ['signed off', 'waits for review', 'returned', 'in work', 'predicted', 'new', 'problem'];

/** Shows how many cases are in each state. A state is a button that filters the list. */
export function showProgress({ total, counts, today, week }, chosen, toggle) {
  const done = counts['signed off'] || 0;
  fill(
    byId('progress-text'),
    element('strong', { textContent: done + ' of ' + counted(total, 'case') }),
    ' signed off',
    element('span', { class: 'small', textContent: today + ' today · ' + week + ' in 7 days' })
  );
  const segments = DONE_FIRST.filter(state => counts[state]).map(state => {
    const part = element('span', { class: classOf(state) });
    part.style.flexGrow = counts[state];
    return part;
  });
  fill(byId('progress-bar'), ...segments);
  const buttons = STATES.map(state => {
    const count = counts[state] || 0;
    const pressed = chosen.includes(state);
    return element(
      'button',
      {
        type: 'button',
        class: 'chip ' + classOf(state),
        'aria-pressed': String(pressed),
        'data-cy': 'state-' + state.replaceAll(' ', '-'),
        disabled: !count && !pressed,
        onclick: () => toggle(state),
      },
      state + ' ',
      element('span', { class: 'number', textContent: String(count) })
    );
  });
  keepFocus(byId('states'), buttons);
}

/** Replaces the children of an element; the focus stays on the part with the same name, or else goes to the same job or a text. */
function keepFocus(node, children, text) {
  const focused = node.contains(document.activeElement) ? document.activeElement : null;
  fill(node, ...children);
  if (focused) {
    const parts = [...node.querySelectorAll('[data-cy]')];
    const same = parts.find(part => part.dataset.cy === focused.dataset.cy) || parts.find(part => part.dataset.job && part.dataset.job === focused.dataset.job);
    (same && !same.disabled ? same : text)?.focus();
  }
}

/** Ids of ended jobs that are being run again. The page is drawn anew while a request goes on. */
const repeated = new Set();

/**
 * Shows the running and waiting jobs, the person's own ones with a button to cancel them, and why own ones have ended early, with a
 * button to run them again.
 */
export function showQueue({ queue: { running, waiting, yours }, models }, say, reload) {
  const text = running || waiting ? [running && running + ' running', waiting && waiting + ' waiting'].filter(Boolean).join(', ') : 'No model is running.';
  byId('queue-text').textContent = text;
  const own = yours.filter(job => ['queued', 'running', 'cancelling'].includes(job.state));
  const ended = yours.filter((job, place) => whyEnded(job) && !yours.slice(place + 1).some(later => later.kind === job.kind && later.subject === job.subject));
  const doing = async (task, done) => {
    try {
      await task();
      say(done);
    } catch (error) {
      say(error.message);
    }
    reload();
  };
  const lines = own.map(job => {
    const left = job.seconds_left === null || job.seconds_left === undefined ? '' : 'about ' + duration(job.seconds_left) + ' left';
    const about = job.state === 'queued' ? 'waiting, ' + job.position + ' before it' : job.state === 'running' ? job.stage : job.state;
    const stop = () => doing(() => ask('jobs/' + encodeURIComponent(job.id), {}, { method: 'DELETE' }), 'The job was cancelled.');
    return element(
      'li',
      {},
      nameOf(job),
      element('progress', { max: 1, value: job.share || 0, 'aria-label': 'Progress of ' + job.kind }),
      element('span', { class: 'small', textContent: [about, left].filter(Boolean).join(' · ') }),
      button('cancel-' + job.id, 'Cancel', stop, { class: 'plain', 'data-job': whatOf(job), disabled: job.state === 'cancelling', 'aria-label': 'Cancel ' + job.kind + ' on ' + titleOf(job) })
    );
  });
  const stored = new Set(models.filter(model => model.stored && !model.missing).map(({ name }) => name));
  const endings = ended.map(job => {
    const query = { image: job.subject, wait: false, attended: true, output: 'json' };
    const body = new URLSearchParams({ params: JSON.stringify(job.options) });
    const post = () => ask('infer/' + encodeURIComponent(job.kind), query, { method: 'POST', body });
    const start = async () => {
      if (repeated.has(job.id)) { // a second press must not queue a second run
        return;
      }
      repeated.add(job.id);
      again.setAttribute('aria-disabled', 'true'); // `disabled` would take the focus away
      await doing(() => post().catch(error => { repeated.delete(job.id); throw error; }), job.kind + ' runs again on ' + titleOf(job) + '.');
    };
    const again = button('again-' + job.id, 'Run it again', start, {
      class: 'plain',
      'data-job': whatOf(job),
      'aria-disabled': String(repeated.has(job.id)),
      'aria-label': 'Run ' + job.kind + ' again on ' + titleOf(job),
    });
    // An uploaded file is no longer on the server.
    return element('li', {}, nameOf(job), element('span', { class: 'small', textContent: whyEnded(job) }), stored.has(job.kind) && job.listed ? again : null);
  });
  byId('queue-text').tabIndex = -1;
  keepFocus(byId('jobs'), [...lines, ...endings], byId('queue-text'));
}

/** Returns what a job does: its model and its case. */
const whatOf = ({ kind, subject }) => kind + ' ' + subject;

/** Returns the title of a job's case, if the case is listed. Its name, which may be a UID, is a tooltip. */
const titleOf = ({ title, subject }) => title || subject;
const nameOf = job => element('span', { title: job.subject }, element('strong', { textContent: job.kind }), ' on ' + titleOf(job));

/** Returns why a job ended without a result; empty if it did not, or if its person has cancelled it. */
function whyEnded({ state, reason, error }) {
  if (state === 'failed') {
    return 'Failed: ' + (error || 'the log of the server has the reason.');
  }
  return state === 'cancelled' && reason ? 'The server has cancelled it: ' + reason + '.' : '';
}

/** Shows the models with their versions and marks, and what keeps others from running. */
export function showModels({ models, demo_weights: demo, learning }) {
  byId('demo').hidden = !demo;
  const able = models.filter(model => !model.missing);
  byId('models-text').textContent = counted(able.length, 'model') + ' ready' + (models.length > able.length ? ', ' + (models.length - able.length) + ' missing' : '');
  const lines = models.map(({ name, title, version, mark, missing }) =>
    element(
      'li',
      { class: missing ? 'missing' : '' },
      element('strong', { textContent: name, title }),
      version ? element('span', { class: 'small', textContent: String(version) }) : null,
      mark ? element('span', { class: 'tag', textContent: mark }) : null,
      missing ? element('span', { class: 'small', textContent: missing }) : null
    )
  );
  fill(byId('models'), ...lines);
  const text = learning?.on && learning.of ? 'Cases are measured in the background: ' + learning.done + ' of ' + learning.of + '.' : '';
  byId('learning').textContent = text;
}

/** Says above the cases that the list of the PACS may be out of date; hidden if it is current, or if there is no list yet. */
export function showPacsProblem({ total, pacs_problem: problem }) {
  const box = byId('pacs-problem');
  const text = problem && total ? problem + ' The list may be out of date.' : '';
  box.hidden = !text;
  if (box.textContent !== text) { // a screen reader reads each change
    box.textContent = text;
  }
}

/** Shows what to do if the list is empty; hidden if it is not. */
export function showEmpty({ summary, shown, filtered, clear }) {
  const box = byId('empty');
  const { total, may, pacs, pacs_problem: problem, counts } = summary;
  const heading = text => element('h2', { textContent: text });
  const says = text => element('p', { textContent: text });
  byId('all-done').hidden = !total || (counts['signed off'] || 0) < total;
  box.hidden = shown > 0;
  if (shown > 0) {
    return;
  }
  if (total && filtered) {
    fill(box, heading('No case matches'), says('No case has all of the chosen properties.'), button('clear-empty', 'Clear the filters', clear, { class: 'main' }));
  } else if (total) {
    fill(box, heading('No cases on this page'), button('clear-empty', 'Back to the first page', clear, { class: 'main' }));
  } else if (pacs && problem) {
    fill(
      box,
      heading('The CTs of the PACS cannot be listed'),
      says(problem + ' The CTs appear here once the PACS has listed them.'),
      says('If this lasts longer than a minute, check that the PACS is running. The log of this server has the reason.')
    );
  } else if (pacs) {
    fill(
      box,
      heading('The PACS contains no CT yet'),
      says('Send studies to it, for example a folder of DICOM files. URL is the address of the PACS, as in the command that started this server:'),
      element('pre', {}, element('code', { textContent: 'medsam2-atlas dicom send FOLDER URL' })),
      says('New studies appear here within a minute.')
    );
  } else if (may.upload) {
    fill(box, heading('There is no CT yet'), says('Drop CTs on the area above: NIfTI, NRRD or MHA files, DICOM files or folders, or ZIP archives.'));
  } else {
    fill(box, heading('There is no CT yet'), says('Ask an admin of this server to add CTs: they can drop files on this page.'));
  }
}
