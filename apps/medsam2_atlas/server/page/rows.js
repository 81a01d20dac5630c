/* The rows of the worklist: one case each, with its picture, state, measures, and one action. */

import { bar, button, counted, element, words } from './dom.js';
import { address } from './server.js';
import { fullTime, shortTime } from './times.js';

export const ACTIONS = { segment: 'Segment', correct: 'Correct', review: 'Review', view: 'View', fix: 'Fix' };
const MAX_ORGANS = 3;

/** Returns the name of a case for people: its patient, or else the study. */
export const nameOf = row => row.patient || row.study;

/** Returns the address of a case's picture; it changes with the label map in it, so that an old picture is not shown. */
export const pictureOf = row => address('worklist/picture', { study: row.study, tag: row.tag, version: row.version || null });

/** Returns a class name for a state. */
export const classOf = state => 'state-' + state.replaceAll(' ', '-');

/** Returns who works on a case, in words. `you`: the name of the person at the screen. */
export function workers(row, you) {
  const called = name => (name === you || !name ? 'you' : name);
  const lines = [];
  if (row.claimed) {
    const own = row.mine && called(row.claimed.person) === 'you';
    lines.push((own ? 'You have' : row.claimed.person + ' has') + ' it open since ' + shortTime(row.claimed.since));
  }
  const others = row.opened.filter(name => name && name !== you && name !== row.claimed?.person);
  if (others.length) {
    lines.push(others.join(', ') + (others.length === 1 ? ' looks at it' : ' look at it'));
  }
  if (row.assigned) {
    lines.push('Assigned to ' + called(row.assigned));
  }
  return lines;
}

function picture(row) {
  const image = element('img', { width: 112, height: 76, alt: '', loading: 'lazy', decoding: 'async', src: pictureOf(row) });
  image.addEventListener('error', () => image.classList.add('missing'));
  return element('td', { class: 'picture' }, image);
}

function about(row, you) {
  const title = element('strong', { class: 'name', textContent: nameOf(row), title: row.study });
  const lines = [title];
  if (row.description && !row.description.startsWith(row.patient + '.')) { // the name of a file says nothing more
    lines.push(element('span', { class: 'small', textContent: row.description, title: row.description }));
  }
  if (row.comment) {
    lines.push(
      element(
        'span',
        { class: 'comment' },
        element('strong', { textContent: (row.comment.by === you ? 'You' : row.comment.by || 'A reviewer') + ' returned it: ' }),
        row.comment.text
      )
    );
  }
  if (row.problem) {
    lines.push(element('span', { class: 'bad', textContent: row.problem }));
  } else if (row.why && row.state !== 'signed off') {
    lines.push(element('span', { class: 'small why', textContent: row.why, title: row.why }));
  }
  return element('th', { scope: 'row', class: 'case' }, ...lines);
}

function state(row, you) {
  const lines = workers(row, you).map(text => element('span', { class: 'small', textContent: text }));
  return element('td', { class: 'status' }, element('span', { class: 'chip ' + classOf(row.state), textContent: row.state }), ...lines);
}

function organs(row) {
  const shown = row.check.slice(0, MAX_ORGANS).map(([organ, confidence]) =>
    element('span', { class: 'organ' }, words(organ) + ' ', element('span', { class: 'number', textContent: confidence.toFixed(2) }))
  );
  const rest = row.checks - shown.length;
  const more = rest > 0 ? element('span', { class: 'small', textContent: counted(rest, 'more', 'more') }) : null;
  return element('td', { class: 'check', 'data-label': 'Check' }, ...shown, more);
}

function saved(row) {
  const when = row.time ? element('time', { dateTime: row.time, title: fullTime(row.time), textContent: shortTime(row.time) }) : null;
  return element('td', { class: 'saved', 'data-label': 'Saved' }, when, row.version ? element('span', { class: 'small', textContent: 'v' + row.version }) : null);
}

function author(row) {
  return element('td', { class: 'by', 'data-label': 'By' }, row.author || row.model || '');
}

/** Returns the one action of a row: a link into the viewer, or a button where something must be fixed first. */
function action(row, run) {
  const title = ACTIONS[row.action];
  const rest = { class: 'action ' + row.action, 'data-cy': 'action', 'aria-label': title + ' ' + nameOf(row) };
  const open = event => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) {
      return; // in another tab
    }
    event.preventDefault();
    run.open(row);
  };
  const own =
    row.action === 'fix' || !row.viewer
      ? button('action', title, () => run.details(row), rest)
      : element('a', { ...rest, href: address(row.viewer), textContent: title, onclick: open });
  const more = button('details', '⋯', () => run.details(row), { class: 'more', 'aria-label': 'More about ' + nameOf(row), title: 'Details' });
  return element('td', { class: 'actions' }, element('div', {}, own, more));
}

/** Returns the table row of a case. `run`: functions `open` and `details`. */
export function rowOf(row, you, run) {
  const node = element(
    'tr',
    { tabIndex: -1, class: row.mine ? 'mine' : '', 'data-study': row.study },
    picture(row),
    about(row, you),
    element('td', { class: 'date', 'data-label': 'Date', textContent: row.date }),
    state(row, you),
    element('td', { class: 'share', 'data-label': 'Confidence' }, bar(row.confidence, 'confidence', 'Confidence')),
    element('td', { class: 'share', 'data-label': 'Disagreement' }, bar(row.disagreement, 'disagreement', 'Disagreement')),
    organs(row),
    author(row),
    saved(row),
    action(row, run)
  );
  node.row = row;
  return node;
}

/**
 * Shows rows in a table. Rows that have not changed keep their elements, so that pictures do not flicker and the focus stays.
 * @param {HTMLElement} body
 */
export function showRows(body, rows, you, run) {
  const before = new Map([...body.rows].map(node => [node.dataset.study, node]));
  const focused = document.activeElement?.closest?.('tr[data-study]');
  const inner = focused === document.activeElement ? null : document.activeElement?.dataset?.cy;
  const nodes = rows.map(row => {
    const text = JSON.stringify([row, you]);
    const known = before.get(row.study);
    if (known?.content === text) {
      return known;
    }
    const made = rowOf(row, you, run);
    made.content = text;
    return made;
  });
  body.replaceChildren(...nodes);
  if (focused) {
    const again = nodes.find(node => node.dataset.study === focused.dataset.study);
    ((inner && again?.querySelector('[data-cy="' + inner + '"]')) || again)?.focus({ preventScroll: true });
  }
}
