/* The dialog about a case: everything that is known about it, and what a person may do with it besides the row's action. */

import { button, counted, element, words } from './dom.js';
import { openDialog, say } from './parts.js';
import { nameOf, pictureOf, workers } from './rows.js';
import { address, ask, send } from './server.js';
import { fullTime, shortTime } from './times.js';

const MAX_COMMENT = 2000;
const figure = value => (value === null || value === undefined ? '' : value.toFixed(3));

function facts(row, you) {
  const entries = [
    ['State', row.state],
    ['Who', workers(row, you).join('. ')],
    ['Description', row.description],
    ['Date', row.date],
    ['Saved', [row.author && 'by ' + row.author, fullTime(row.time), row.version ? 'version ' + row.version : ''].filter(Boolean).join(', ')],
    ['Predictions', row.models.join(', ')],
    ['Check first', row.check.map(([organ, confidence]) => words(organ) + ' ' + confidence.toFixed(2)).join(', ')],
    ['Disagreement', figure(row.disagreement)],
    ['Uncertainty', figure(row.uncertainty)],
    ['Novelty', figure(row.novelty)],
    ['Why', row.why],
    ['Study', row.study],
  ];
  const shown = entries.filter(([, text]) => text).flatMap(([name, text]) => [element('dt', { textContent: name }), element('dd', { textContent: text })]);
  return element('dl', { class: 'facts' }, ...shown);
}

/** Shows the details of a case. `done` is called after something has changed. */
export async function showDetails(row, { you, may, people, review, done }) {
  const image = element('img', { src: pictureOf(row), alt: row.tag ? 'Label map of ' + nameOf(row) : 'CT of ' + nameOf(row), class: 'large' });
  image.addEventListener('error', () => image.remove());
  const problem = row.problem ? element('p', { class: 'bad', textContent: row.problem }) : null;
  const comment = row.comment
    ? element('p', { class: 'comment' }, element('strong', { textContent: (row.comment.by || 'A reviewer') + ' returned it: ' }), row.comment.text)
    : null;
  const waits = row.state === 'waits for review' && may.review && review;
  const choose = answer => button('case-' + answer, CHOICES[answer], event => {
    const dialog = event.target.closest('dialog');
    dialog.returnValue = answer;
    dialog.close(answer);
  });
  const tools = element(
    'div',
    { class: 'buttons' },
    row.viewer ? element('a', { class: 'button', href: address(row.viewer), textContent: 'Open in the viewer' }) : null,
    row.models.length + (row.version ? 1 : 0) > 1
      ? element('a', { class: 'button', href: address('compare', { study: row.study }), textContent: 'Compare label maps' })
      : null,
    waits ? choose('accept') : null,
    waits ? choose('return') : null,
    may.assign ? choose('assign') : null,
    row.claimed && (row.mine || may.assign) ? choose('release') : null
  );
  const content = [image, problem, comment, facts(row, you), tools].filter(Boolean);
  const chosen = await openDialog(nameOf(row), content, []);
  const runs = { accept: acceptCase, return: returnCase, assign: one => assignCase(one, people), release: releaseCase };
  const text = chosen && (await runs[chosen.answer](row));
  if (text) {
    say(text);
    done();
  }
}

const CHOICES = { accept: 'Accept', return: 'Return …', assign: 'Assign …', release: 'Release the claim' };

/** Accepts the newest version of a case; returns what was done. */
export async function acceptCase(row) {
  await ask('datastore/label/accept', { label: row.study, tag: 'final', version: row.version }, { method: 'POST' });
  return nameOf(row) + ' was accepted.';
}

/** Asks for a comment and returns the case to its author; returns what was done, or null. */
export async function returnCase(row) {
  const field = element('textarea', { name: 'comment', id: 'dialog-comment', rows: 5, maxLength: MAX_COMMENT, required: true, autofocus: true });
  const label = element('label', { for: 'dialog-comment', textContent: 'What should ' + (row.author || 'the author') + ' change?' });
  const answer = await openDialog('Return ' + nameOf(row), [label, field], [{ value: 'return', title: 'Return the case' }]);
  const comment = answer?.comment.trim();
  if (!comment) {
    return null;
  }
  await send('datastore/label/return', { comment }, { query: { label: row.study, tag: 'final', version: row.version } });
  return nameOf(row) + ' was returned' + (row.author ? ' to ' + row.author : '') + '.';
}

/** Asks for a person and assigns the case; returns what was done, or null. */
async function assignCase(row, people) {
  const names = element('datalist', { id: 'dialog-people' }, ...people.map(name => element('option', { value: name })));
  const field = element('input', { name: 'person', id: 'dialog-person', value: row.assigned, maxLength: 200, autofocus: true, autocomplete: 'off' });
  field.setAttribute('list', 'dialog-people');
  const label = element('label', { for: 'dialog-person', textContent: 'Person (empty: nobody)' });
  const answer = await openDialog('Assign ' + nameOf(row), [label, field, names], [{ value: 'assign', title: 'Assign' }]);
  if (!answer) {
    return null;
  }
  const person = answer.person.trim();
  await send('worklist/assign', { study: row.study, person });
  return person ? nameOf(row) + ' is assigned to ' + person + '.' : nameOf(row) + ' is assigned to nobody.';
}

async function releaseCase(row) {
  const { claimed } = await ask('worklist/claim', { study: row.study }, { method: 'DELETE' });
  return nameOf(row) + (claimed ? ' is still claimed by ' + claimed.person + '.' : ' is free again.');
}

/** Claims a case before it is opened. Returns whether to open it: another person may have it, and then the person at the screen decides. */
export async function claimed(row) {
  try {
    await send('worklist/claim', { study: row.study });
    return true;
  } catch (error) {
    if (error.status !== 409) {
      throw error;
    }
    const { person, since } = error.content.error?.claimed || {};
    const text = element('p', { textContent: (person || 'Another person') + ' has this case open' + (since ? ' since ' + shortTime(since) : '') + '.' });
    const advice = element('p', { textContent: 'Only one label map of a case should be edited at a time. You can look at it, or take another case.' });
    const answer = await openDialog(nameOf(row) + ' is taken', [text, advice], [{ value: 'look', title: 'Look at it', class: 'plain' }]);
    return Boolean(answer);
  }
}

/** Returns the number of shown cases in words. */
export const shownOf = ({ total, page, size, rows }) =>
  rows.length ? (page - 1) * size + 1 + '–' + ((page - 1) * size + rows.length) + ' of ' + counted(total, 'case') : counted(total, 'case');
