/* The title of the case, and warnings. */

import { element, show } from './view.js';

export function caseSection(session) {
  const title = element('h2', { 'data-cy': 'case-title' });
  const banner = element('p', {
    class: 'banner',
    'data-cy': 'demo-banner',
    textContent: 'Demo weights: trained on synthetic patients only. Not for patients.',
  });
  const research = element('p', { class: 'research', textContent: 'Research use only. A person must check all predictions.' });
  const busy = element('p', { class: 'busy', role: 'status', 'data-cy': 'busy' });
  const node = element('section', {}, banner, research, title, busy);
  return {
    node,
    update({ about, busy: text, message: shown }) {
      title.textContent = about ? about.title : shown ? '' : 'Opening the case …';
      show(banner, Boolean(about?.demo_weights));
      busy.textContent = text;
      show(busy, Boolean(text));
    },
  };
}
