/* Signing off, the next case, and the questions that signing off may ask. */

import { keepReason } from '../../page/next_reason.js'; // as seen from SERVER/ohif/panel/
import { address, askJson } from '../server.js';
import { submit } from '../submitting.js';
import { button, element, fill, show } from './view.js';

/** Returns the address of the next case in the viewer; null if the viewer cannot show it. */
const viewerOf = next => (next?.viewer ? address(next.viewer) : null);

/** Claims the next case and opens it. It may be another one than the panel has shown: somebody else may have claimed that meanwhile. */
async function openNext(session) {
  const body = JSON.stringify({ strategy: null, except: session.image });
  const next = await askJson('worklist/next', {}, { method: 'POST', body, headers: { 'Content-Type': 'application/json' } });
  const url = viewerOf(next);
  if (url) {
    keepReason(next);
    window.location.assign(url);
  } else {
    session.say('info', 'The case was submitted. There is no next case.');
  }
}

export function submitSection(session) {
  const dialog = element('div', { class: 'question', role: 'alertdialog', 'aria-modal': 'true', 'data-cy': 'question', hidden: true });
  const ask = question => new Promise(resolve => { session.closeQuestion = showQuestion(dialog, question, resolve); });
  const alone = button('submit', 'Submit', () => submit(session, ask), { class: 'main' });
  const onwards = button('submit-next', 'Submit and next case', async () => {
    if (await submit(session, ask)) {
      await session.doing('Opening the next case …', () => openNext(session));
    }
  });
  const reason = element('p', { class: 'reason', 'data-cy': 'next-reason' });
  const draft = element('p', { class: 'draft', 'data-cy': 'draft' });
  const node = element('section', { class: 'submit' }, element('div', { class: 'line' }, alone, onwards), reason, draft, dialog);
  return {
    node,
    update({ about, busy, job, drafted, unsaved, marks }) {
      alone.disabled = onwards.disabled = !about || Boolean(busy || job);
      const next = about?.next;
      reason.textContent = next ? 'Next: ' + next.why : '';
      reason.title = next ? next.image : '';
      show(reason, Boolean(next));
      show(onwards, Boolean(viewerOf(next)));
      const kept = DRAFTS[drafted] || (unsaved ? '' : 'Nothing to save.');
      draft.textContent = [kept, marks ? 'Marks that are not applied: ' + marks + '.' : ''].filter(Boolean).join(' ');
    },
  };
}

const DRAFTS = {
  pending: 'Keeping your work …',
  kept: 'Your work is kept on the server until you submit.',
  loaded: 'Your work is kept on the server until you submit.',
  failed: 'Your work is not kept.',
};

/** Shows a question; returns a function that answers it with `nothing`. */
function showQuestion(dialog, { title, text, answers }, resolve) {
  const before = document.activeElement;
  const done = id => {
    dialog.hidden = true;
    document.removeEventListener('keydown', onKey, true);
    before?.focus?.();
    resolve(id);
  };
  const onKey = event => {
    event.stopPropagation(); // a shortcut must not edit the label map behind the question
    if (event.key === 'Escape') {
      done('nothing');
    }
  };
  const buttons = answers.map(answer => button('answer-' + answer.id, answer.title, () => done(answer.id), { class: answer.main ? 'main' : '' }));
  dialog.setAttribute('aria-label', title);
  fill(dialog, element('h3', { textContent: title }), element('p', { textContent: text }), element('div', { class: 'line' }, ...buttons));
  dialog.hidden = false;
  document.addEventListener('keydown', onKey, true);
  buttons[0].focus();
  return () => dialog.hidden || done('nothing');
}
