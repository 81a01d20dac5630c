/* The second step of the review stage: a reviewer accepts the newest final version, or returns it with a comment. */

import { ask } from '../server.js';
import { button, element, show } from './view.js';

const MAX_COMMENT = 2000;

export function reviewSection(session) {
  const comment = element('textarea', { rows: 3, maxLength: MAX_COMMENT, 'data-cy': 'review-comment', 'aria-label': 'Comment for the author' });
  const query = () => ({ label: session.image, tag: 'final', version: session.state.about.final });
  const json = { method: 'POST', headers: { 'Content-Type': 'application/json' } };
  const done = (text, send) =>
    session.doing(text + ' …', async () => {
      await send();
      comment.value = '';
      await session.refresh();
      session.say('done', text === 'Accepting' ? 'The case was accepted.' : 'The case was returned.', [
        { title: 'Back to the worklist', run: () => document.querySelector('[data-cy=worklist]').click() },
      ]);
    });
  const accept = button('accept', 'Accept', () => done('Accepting', () => ask('datastore/label/accept', query(), { method: 'POST' })), { class: 'main' });
  const back = button('return', 'Return with the comment', () => {
    const text = comment.value.trim();
    if (text) {
      done('Returning', () => ask('datastore/label/return', query(), { ...json, body: JSON.stringify({ comment: text }) }));
    } else {
      session.say('info', 'Write what should be changed, then return the case.');
      comment.focus();
    }
  });
  const text = element('p', { class: 'reason', 'data-cy': 'review-text' });
  const node = element('section', { class: 'review' }, element('h3', { textContent: 'Review' }), text, comment, element('div', { class: 'line' }, accept, back));
  return {
    node,
    update({ about, busy, job, unsaved }) {
      show(node, Boolean(about?.review?.may_accept));
      const blocked = Boolean(busy || job);
      accept.disabled = back.disabled = blocked || unsaved;
      text.textContent = unsaved
        ? 'The label map on the screen has unsaved changes. Submit or undo them first.'
        : 'Accepting and returning apply to signed-off version ' + (about?.final || '') + '.';
    },
  };
}
