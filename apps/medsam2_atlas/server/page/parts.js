/* Parts that several pages share: messages with a retry, the line about the user, dialogs. */

import { byId, button, element, fill } from './dom.js';
import { address } from './server.js';

/** Shows an error in words with a button to try again; null hides it. */
export function showProblem(text, retry = null) {
  const box = byId('problem');
  box.hidden = !text;
  fill(box, text ? element('p', { textContent: text }) : null, text && retry ? button('retry', 'Try again', retry) : null);
}

/** Shows a short message at the lower edge for a while; it is read out by screen readers. */
export function say(text, seconds = 6) {
  const box = byId('message');
  box.textContent = text;
  box.classList.add('shown');
  clearTimeout(say.timer);
  say.timer = setTimeout(() => box.classList.remove('shown'), 1000 * seconds);
}

/** Shows who is logged in, and the link to log out. */
export function showUser({ name, role }) {
  fill(
    byId('user'),
    name ? element('span', {}, element('strong', { textContent: name }), ' · ' + role) : null,
    name ? element('a', { href: address('logout'), textContent: 'Log out' }) : null
  );
}

/**
 * Opens a dialog, and returns what its form was closed with: a button's value and the form's fields; null if it was cancelled.
 * @param {string} title
 * @param {Node[]} content the form's fields
 * @param {{value: string, title: string, class?: string}[]} answers the buttons that send the form
 */
export function openDialog(title, content, answers) {
  const heading = element('h2', { id: 'dialog-title', textContent: title });
  const close = button('dialog-cancel', answers.length ? 'Cancel' : 'Close', () => dialog.close(''));
  const buttons = answers.map(({ value, title: text, class: kind }) =>
    element('button', { type: 'submit', value, textContent: text, class: kind || 'main', 'data-cy': 'dialog-' + value })
  );
  const form = element('form', { method: 'dialog' }, heading, ...content, element('div', { class: 'buttons' }, ...buttons, close));
  const dialog = element('dialog', { 'aria-labelledby': 'dialog-title' }, form);
  document.body.append(dialog);
  const before = document.activeElement;
  return new Promise(resolve => {
    dialog.addEventListener('close', () => {
      const fields = Object.fromEntries(new FormData(form));
      dialog.remove();
      before?.focus?.();
      resolve(dialog.returnValue ? { answer: dialog.returnValue, ...fields } : null);
    });
    dialog.addEventListener('cancel', () => { dialog.returnValue = ''; });
    dialog.showModal();
  });
}

