/* What the team has to say about the case: why it is the next one, a reviewer's comment, and who else has it open. */

import { address } from '../server.js';
import { when } from '../session.js';
import { element, fill, show } from './view.js';

const NEXT = 'medsam2_atlas.next'; // the worklist writes there, too, why it opened a case

/** Keeps why a case is the next one until its page shows it. */
export function keepReason({ study, why }) {
  try {
    window.sessionStorage.setItem(NEXT, JSON.stringify({ study, why }));
  } catch {
    // The browser keeps nothing: the case opens without its reason.
  }
}

/** Returns why a case was opened as the next one; an empty text if it was opened in another way. */
function reasonOf(image) {
  try {
    const { study, why } = JSON.parse(window.sessionStorage.getItem(NEXT)) || {};
    return study === image && typeof why === 'string' ? why : '';
  } catch {
    return '';
  }
}

/** Returns the hour of a time of today, or else its date. */
function since(text) {
  const time = new Date(text);
  const today = time.toDateString() === new Date().toDateString();
  return today ? time.toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' }) : when(text);
}

export function notesSection() {
  const home = element('a', { href: address(''), textContent: '← Worklist', 'data-cy': 'worklist' });
  const why = element('p', { class: 'reason', 'data-cy': 'why' });
  const comment = element('p', { class: 'comment', role: 'note', 'data-cy': 'comment' });
  const other = element('p', { class: 'other', role: 'status', 'data-cy': 'other-person' });
  const node = element('section', { class: 'notes' }, home, other, comment, why);
  return {
    node,
    update({ about }) {
      const reason = about ? reasonOf(about.image) : '';
      why.textContent = reason ? 'Why this case: ' + reason : '';
      show(why, Boolean(reason));
      const returned = about?.comment;
      fill(comment, returned ? element('strong', { textContent: (returned.by || 'A reviewer') + ' returned this case: ' }) : null, returned?.text || null);
      show(comment, Boolean(returned));
      const claimed = about?.claimed && !about.claimed.mine ? about.claimed : null;
      other.textContent = claimed ? (claimed.person || 'Another person') + ' has this case open since ' + since(claimed.since) + '.' : '';
      show(other, Boolean(claimed));
    },
  };
}
