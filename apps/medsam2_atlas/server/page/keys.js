/* Keyboard shortcuts of the worklist. They do nothing while somebody types, or while a dialog is open. */

import { element } from './dom.js';
import { openDialog } from './parts.js';

export const KEYS = [
  ['/', 'search'],
  ['n', 'open the next case'],
  ['j or ↓', 'next row'],
  ['k or ↑', 'previous row'],
  ['Enter', 'open the case of the row'],
  ['i', 'details of the case of the row'],
  ['[ and ]', 'previous and next page'],
  ['?', 'this list'],
  ['Esc', 'close a dialog; leave the search'],
];

/** Shows the list of shortcuts. */
export function showKeys() {
  const rows = KEYS.map(([key, meaning]) => element('tr', {}, element('th', { scope: 'row' }, element('kbd', { textContent: key })), element('td', { textContent: meaning })));
  return openDialog('Keyboard shortcuts', [element('table', { class: 'keys' }, element('tbody', {}, ...rows))], []);
}

const typing = node => Boolean(node?.closest?.('input, select, textarea, [contenteditable]'));

/**
 * Follows the shortcuts.
 * @param {HTMLElement} body the rows
 * @param {object} run functions `search`, `next`, `page` (called with -1 or 1), `open` and `details` (called with a row)
 */
export function followKeys(body, run) {
  const focused = () => document.activeElement?.closest?.('tr[data-study]');
  const move = step => {
    const rows = [...body.rows];
    const at = rows.indexOf(focused());
    const row = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + step))];
    row?.focus();
    row?.scrollIntoView({ block: 'nearest' });
  };
  const keys = {
    '/': () => run.search(),
    n: () => run.next(),
    j: () => move(1),
    k: () => move(-1),
    ArrowDown: () => move(1),
    ArrowUp: () => move(-1),
    '[': () => run.page(-1),
    ']': () => run.page(1),
    i: () => focused() && run.details(focused().row),
    '?': () => showKeys(),
    Enter: () => run.open(focused().row),
  };
  document.addEventListener('keydown', event => {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || typing(target) || document.querySelector('dialog[open]')) {
      if (key === 'Escape' && target.id === 'search') {
        target.blur();
      }
      return;
    }
    const onRow = target.matches?.('tr[data-study]');
    if (!Object.hasOwn(keys, key) || (key === 'Enter' && !onRow) || (key.startsWith('Arrow') && !onRow && target !== document.body)) {
      return; // Enter presses the button that has the focus; arrows scroll the page elsewhere
    }
    event.preventDefault();
    keys[key]();
  });
}
