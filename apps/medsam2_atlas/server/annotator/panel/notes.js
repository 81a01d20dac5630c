/* What the team has to say about the case: why it is the next one, a reviewer's comment, and who else has it open. */

import { reasonOf } from '../../page/next_reason.js'; // as seen from SERVER/ohif/panel/
import { shortTime } from '../../page/times.js';
import { address } from '../server.js';
import { element, fill, show } from './view.js';

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
      other.textContent = claimed ? (claimed.person || 'Another person') + ' has this case open since ' + shortTime(claimed.since) + '.' : '';
      show(other, Boolean(claimed));
    },
  };
}
