/* Helpers for the pages' elements. Texts are always set as text, never as HTML: names of cases and people come from outside. */

import { ORGANS } from './organs.js'; // which the server makes from the organ table

const SVG = 'http://www.w3.org/2000/svg';

/**
 * Returns an element.
 * @param {string} tag
 * @param {object} properties properties of the element; `class`, `role`, `for` and names with a dash are attributes; `on…` are listeners
 * @param {...(Node|string|null)} children
 */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) {
      continue;
    }
    if (name.startsWith('on')) {
      node.addEventListener(name.slice(2), value);
    } else if (['class', 'role', 'for', 'colspan', 'scope'].includes(name) || name.includes('-')) {
      node.setAttribute(name, value);
    } else {
      node[name] = value;
    }
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

/** Returns a button. `id` is for tests. */
export const button = (id, title, run, rest = {}) => element('button', { type: 'button', 'data-cy': id, textContent: title, onclick: run, ...rest });

/** Replaces the children of an element. */
export const fill = (node, ...children) => node.replaceChildren(...children.filter(child => child !== null && child !== undefined));

/** Returns the element with an id. */
export const byId = id => document.getElementById(id);

/** Returns an SVG element with attributes and children. */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Returns the element of a small bar for a share, 0..1, with its number as text. `kind` is a class. */
export function bar(share, kind, label) {
  if (share === null || share === undefined) {
    return element('span', { class: 'none', textContent: '–', 'aria-label': label + ' unknown' });
  }
  const inner = element('span', { class: 'bar-fill' });
  inner.style.width = Math.round(100 * Math.min(1, Math.max(0, share))) + '%';
  return element(
    'span',
    { class: 'measure ' + kind },
    element('span', { class: 'bar', 'aria-hidden': 'true' }, inner),
    element('span', { class: 'number', textContent: share.toFixed(2) })
  );
}

/** Returns a number of things with its noun: "1 case", "2 cases". */
export const counted = (number, one, many = one + 's') => number + ' ' + (number === 1 ? one : many);

/** Returns the name of an organ for people. */
export const words = name => ORGANS[name] || name.replaceAll('_', ' ');

/** Returns a duration in words. */
export function duration(seconds) {
  return seconds < 90 ? Math.max(1, Math.round(seconds)) + ' s' : Math.round(seconds / 60) + ' min';
}
