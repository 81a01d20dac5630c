/* The list of organs: colour, name, visibility, lock, volume with its change, confidence, and whether it was checked. */

import { button, element, fill, icon, millilitres, show } from './view.js';

const NEEDS_A_LOOK = 0.5; // below, the confidence is shown in the colour of a warning

export function organsSection(session) {
  const list = element('ol', { class: 'organs', 'data-cy': 'organs' });
  const sort = button('sort', 'Least sure first', () =>
    session.store.set({ sort: session.state.sort === 'table' ? 'sure' : 'table' })
  );
  const all = button('show-all', 'Hide all', () => {
    const visible = session.state.organs.some(organ => organ.visible);
    session.state.organs.forEach(organ => session.setOrgan(organ.label, { visible: !visible }));
  });
  const summary = element('p', { class: 'summary', 'data-cy': 'summary' });
  const node = element('section', {}, element('div', { class: 'line' }, sort, all), list, summary);
  const rows = new Map();
  return {
    node,
    update(state) {
      const { organs, active, job } = state;
      for (const organ of organs.filter(one => !rows.has(one.label))) {
        rows.set(organ.label, rowOf(session, organ));
      }
      const sorted = state.sort === 'sure' ? [...organs].sort((a, b) => sureness(a) - sureness(b)) : organs;
      const order = sorted.map(organ => rows.get(organ.label).node);
      if (order.some((row, i) => list.children[i] !== row)) {
        list.replaceChildren(...order);
      }
      organs.forEach(organ => rows.get(organ.label).update(organ, organ.label === active, job?.organs?.[organ.label]));
      sort.setAttribute('aria-pressed', String(state.sort === 'sure'));
      all.textContent = organs.some(organ => organ.visible) ? 'Hide all' : 'Show all';
      summary.textContent = saved(state);
    },
  };
}

/** Organs without a confidence come after those with one, and checked ones last. */
const sureness = organ => (organ.checked ? 2 : 0) + (organ.confidence ?? 1);

/** Describes what would be saved. */
function saved({ organs, base, unsaved }) {
  const present = organs.filter(organ => organ.ml > 0);
  const open = organs.filter(organ => !organ.checked);
  const from = base ? base.tag + ' version ' + base.version : 'an empty label map';
  const change = unsaved ? 'changed against ' + from : 'unchanged against ' + from;
  return 'Would be saved: ' + present.length + ' organs, ' + change + '. Not marked as checked: ' + open.length + '.';
}

/** Draws an icon on a button, if it is another one than before. */
function drawn(node, name) {
  if (node.dataset.icon !== name) {
    node.dataset.icon = name;
    fill(node, icon(name));
  }
}

function rowOf(session, { label, name, title, colour }) {
  const toggle = key => () => {
    const organ = session.state.organs.find(one => one.label === label);
    session.setOrgan(label, { [key]: !organ[key] });
  };
  const eye = button('eye-' + name, '', toggle('visible'), { class: 'icon' });
  const lock = button('lock-' + name, '', toggle('locked'), { class: 'icon' });
  const swatch = element('span', { class: 'swatch' });
  swatch.style.backgroundColor = 'rgb(' + colour.join(',') + ')';
  const choose = button('organ-' + name, title, () => session.choose(label), { class: 'name' });
  const volume = element('span', { class: 'volume', 'data-cy': 'ml-' + name });
  const sure = element('span', { class: 'sure', 'data-cy': 'confidence-' + name });
  const tick = element('input', { type: 'checkbox', 'data-cy': 'checked-' + name, title: 'Checked', onchange: toggle('checked') });
  tick.setAttribute('aria-label', title + ' is checked');
  const bar = element('progress', { max: 1 });
  const node = element('li', {}, swatch, choose, sure, volume, eye, lock, tick, bar);
  return {
    node,
    update(organ, active, share) {
      node.classList.toggle('active', active);
      choose.setAttribute('aria-pressed', String(active));
      node.classList.toggle('absent', !organ.ml);
      drawn(eye, organ.visible ? 'eye' : 'closed');
      eye.classList.toggle('off', !organ.visible);
      eye.title = organ.visible ? 'Hide in all panes' : 'Show in all panes';
      eye.setAttribute('aria-label', eye.title + ': ' + title);
      const locked = organ.locked && !active;
      drawn(lock, locked ? 'lock' : 'unlocked');
      lock.title = active ? 'The chosen organ is unlocked' : locked ? 'Unlock: other tools may change it' : 'Lock against the brush';
      lock.setAttribute('aria-label', lock.title + ': ' + title);
      lock.disabled = active;
      const change = [organ.added ? '+' + millilitres(organ.added) : '', organ.removed ? '−' + millilitres(organ.removed) : ''];
      volume.textContent = millilitres(organ.ml) + ' ml';
      volume.title = change.filter(Boolean).length ? change.filter(Boolean).join(' ') + ' ml against the loaded version' : 'unchanged';
      volume.classList.toggle('changed', Boolean(organ.added || organ.removed));
      sure.textContent = organ.confidence === null ? '' : Math.round(organ.confidence * 100) + ' %';
      sure.title = 'Confidence of the model: the lower, the earlier it should be checked';
      sure.classList.toggle('low', organ.confidence !== null && organ.confidence < NEEDS_A_LOOK);
      tick.checked = organ.checked;
      show(bar, share !== undefined && share < 1);
      bar.value = share || 0;
    },
  };
}
