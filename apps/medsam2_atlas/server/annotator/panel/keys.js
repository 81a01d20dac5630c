/* The list of keyboard shortcuts. */

import { shortcuts } from '../keys.js';
import { element } from './view.js';

export function keysSection() {
  const rows = shortcuts().map(([key, meaning]) =>
    element('tr', {}, element('th', {}, element('kbd', { textContent: key })), element('td', { textContent: meaning }))
  );
  const mouse = element('p', { textContent: 'Wheel: slices. Right button: zoom. Middle button: move.' });
  const node = element('details', {}, element('summary', { textContent: 'Keyboard shortcuts' }), element('table', {}, ...rows), mouse);
  return { node, update: () => undefined };
}
