/* The last message. It stays in view while the rest of the panel is scrolled: it may say that work is not kept. */

import { button, element, fill, show } from './view.js';

export function messageSection(session) {
  const node = element('div', { class: 'message', role: 'status', 'data-cy': 'message' });
  return {
    node,
    update({ message }) {
      show(node, Boolean(message));
      if (message) {
        node.dataset.kind = message.kind;
        const close = button('close-message', '×', () => session.store.set({ message: null }), { 'aria-label': 'Close the message' });
        const actions = message.actions.map((action, i) => button('message-action-' + i, action.title, action.run));
        fill(node, element('span', { textContent: message.text }), ...actions, close);
      }
    },
  };
}
