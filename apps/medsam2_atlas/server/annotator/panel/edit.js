/* Undo and redo, the tools with their labels, and the marks. */

import { applyMarks, cancelMarks, clearMarks } from '../running.js';
import { TOOLS } from '../tools.js';
import { button, element, show } from './view.js';

export function editSection(session) {
  const undo = button('undo', 'Undo', () => session.undo(), { title: 'Ctrl+Z' });
  const redo = button('redo', 'Redo', () => session.redo(), { title: 'Ctrl+Y' });
  const tools = TOOLS.map(tool =>
    button('tool-' + tool.id, tool.title, () => session.setTool(tool.id), { title: tool.hint + ' (' + tool.key.toUpperCase() + ')' })
  );
  const radius = element('input', {
    type: 'range',
    min: 1,
    max: 40,
    step: 1,
    'data-cy': 'radius',
    oninput: () => session.setRadius(Number(radius.value)),
  });
  const size = element('span');
  const solid = element('input', { type: 'checkbox', 'data-cy': 'solid', onchange: () => session.setSolid(solid.checked) });
  const brush = element('div', { class: 'line' }, element('label', {}, size, radius), element('label', {}, solid, '3D'));
  const live = element('input', { type: 'checkbox', 'data-cy': 'live', onchange: () => session.store.set({ live: live.checked }) });
  const apply = button('apply-marks', 'Apply marks', () => applyMarks(session));
  const clear = button('clear-marks', 'Remove marks', () => clearMarks(session));
  const stop = button('stop-marks', 'Stop', () => cancelMarks(session));
  const marks = element('div', { class: 'line' }, element('label', { title: 'Each mark refines the organ at once' }, live, 'Live'), apply, clear, stop);
  const node = element('section', {}, element('div', { class: 'line' }, undo, redo), element('div', { class: 'tools' }, ...tools), brush, marks);
  return {
    node,
    update(state) {
      show(node, Boolean(state.about));
      TOOLS.forEach((tool, i) => tools[i].setAttribute('aria-pressed', String(tool.id === state.tool)));
      const painting = TOOLS.find(tool => tool.id === state.tool)?.solid;
      show(brush, Boolean(painting));
      radius.value = state.radius;
      size.textContent = 'Radius ' + state.radius + ' mm ';
      solid.checked = state.solid;
      live.checked = state.live;
      show(marks, ['box', 'inside', 'outside'].includes(state.tool) || state.marks > 0);
      apply.disabled = clear.disabled = !state.marks || state.frozen;
      show(stop, Boolean(session.refining));
      [undo.disabled, redo.disabled] = [!state.canUndo || state.frozen, !state.canRedo || state.frozen];
    },
  };
}
