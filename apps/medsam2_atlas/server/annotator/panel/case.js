/* The title of the case, warnings, and messages. */

import { button, element, fill, show } from './view.js';

export function caseSection(session) {
  const title = element('h2', { 'data-cy': 'case-title' });
  const banner = element('p', {
    class: 'banner',
    'data-cy': 'demo-banner',
    textContent: 'Demo weights: trained on synthetic patients only. Not for patients.',
  });
  const research = element('p', { class: 'research', textContent: 'Research use only. A person must check all predictions.' });
  const busy = element('p', { class: 'busy', role: 'status', 'data-cy': 'busy' });
  const message = element('div', { class: 'message', role: 'status', 'data-cy': 'message' });
  const node = element('section', {}, banner, research, title, busy, message);
  return {
    node,
    update({ about, busy: text, message: shown }) {
      title.textContent = about ? about.title : shown ? '' : 'Opening the case …';
      show(banner, Boolean(about?.demo_weights));
      busy.textContent = text;
      show(busy, Boolean(text));
      show(message, Boolean(shown));
      if (shown) {
        message.dataset.kind = shown.kind;
        const close = button('close-message', '×', () => session.store.set({ message: null }), { 'aria-label': 'Close the message' });
        const actions = shown.actions.map((action, i) => button('message-action-' + i, action.title, action.run));
        fill(message, element('span', { textContent: shown.text }), ...actions, close);
      }
    },
  };
}
