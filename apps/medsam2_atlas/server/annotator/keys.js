/* Keyboard shortcuts, and their list for the panel. */

import { applyMarks } from './running.js';
import { TOOLS } from './tools.js';

/** Returns the shortcuts as pairs of a key and its meaning. */
export const shortcuts = () => [
  ['Ctrl+Z', 'undo'],
  ['Ctrl+Y', 'redo'],
  ...TOOLS.map(tool => [tool.key.toUpperCase(), tool.title.toLowerCase()]),
  ['[ and ]', 'smaller, larger brush'],
  ['N, P', 'next, previous organ'],
  ['H', 'hide or show the chosen organ'],
  ['C', 'mark the chosen organ as checked'],
  ['M', 'apply the marks'],
];

/** Listens to the keyboard while a case is open; returns a function that ends this. OHIF's own shortcuts are off in this mode. */
export function followKeys(session) {
  const heard = event => {
    const field = event.target.closest?.('input:not([type=checkbox]):not([type=range]), textarea, select, [contenteditable]');
    if (field || !session.state.about || session.state.frozen) {
      return;
    }
    const key = event.key.toLowerCase();
    const act = event.ctrlKey || event.metaKey ? withControl(session, key, event.shiftKey) : event.altKey ? null : plain(session, key);
    if (act) {
      event.preventDefault();
      event.stopPropagation();
      act();
    }
  };
  window.addEventListener('keydown', heard, true);
  return () => window.removeEventListener('keydown', heard, true);
}

function withControl(session, key, shift) {
  if (key === 'z') {
    return () => (shift ? session.redo() : session.undo());
  }
  return key === 'y' ? () => session.redo() : null;
}

function plain(session, key) {
  const { organs, active, radius } = session.state;
  const organ = organs.find(one => one.label === active);
  const step = by => () => session.choose(organs[(organs.indexOf(organ) + by + organs.length) % organs.length].label);
  const tool = TOOLS.find(one => one.key === key);
  if (tool) {
    return () => session.setTool(tool.id);
  }
  const others = {
    '[': () => session.setRadius(Math.max(1, radius - 1)),
    ']': () => session.setRadius(Math.min(40, radius + 1)),
    n: step(1),
    p: step(-1),
    h: () => session.setOrgan(active, { visible: !organ.visible }),
    c: () => session.setOrgan(active, { checked: !organ.checked }),
    m: () => applyMarks(session),
  };
  return others[key] || null;
}
