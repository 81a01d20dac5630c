/* Helpers for the panel's elements. Texts are always set as text, never as HTML: names of cases and people come from outside. */

/**
 * Returns an element.
 * @param {string} tag
 * @param {object} properties properties of the element; `class` and names with a dash or `role` are attributes; `on…` are listeners
 * @param {...(Node|string|null)} children
 */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) {
      node.addEventListener(name.slice(2), value);
    } else if (name === 'class' || name === 'role' || name.includes('-')) {
      node.setAttribute(name, value);
    } else {
      node[name] = value;
    }
  }
  node.append(...children.filter(child => child !== null));
  return node;
}

/** Returns a button. `id` is for tests and shortcuts. */
export const button = (id, title, run, rest = {}) =>
  element('button', { type: 'button', 'data-cy': id, textContent: title, onclick: run, ...rest });

/** Replaces the children of an element. */
export const fill = (node, ...children) => node.replaceChildren(...children.filter(child => child !== null));

/** Shows or hides an element. */
export const show = (node, visible) => { node.hidden = !visible; };

/** Returns a volume in words. */
export function millilitres(value) {
  if (!value) {
    return '0';
  }
  return value >= 100 ? String(Math.round(value)) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

const ICONS = {
  eye: ['M1 8s3-5 7-5 7 5 7 5-3 5-7 5-7-5-7-5z', 'M8 6a2 2 0 1 0 0 4 2 2 0 0 0 0-4z'],
  closed: ['M1 8s3-5 7-5 7 5 7 5-3 5-7 5-7-5-7-5z', 'M2 14L14 2'],
  lock: ['M4 7V5a4 4 0 0 1 8 0v2', 'M3 7h10v7H3z'],
  unlocked: ['M4 7V4a3 3 0 0 1 6-1', 'M3 7h10v7H3z'],
};

/** Returns a line drawing: eye, closed, lock or unlocked. The fonts of a machine may lack such characters. */
export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('aria-hidden', 'true');
  for (const d of ICONS[name]) {
    const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
    path.setAttribute('d', d);
    svg.append(path);
  }
  return svg;
}
