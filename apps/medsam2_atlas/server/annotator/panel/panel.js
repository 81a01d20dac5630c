/* The panel: its sections from top to bottom, in the order of the work. */

import { caseSection } from './case.js';
import { editSection } from './edit.js';
import { keysSection } from './keys.js';
import { messageSection } from './message.js';
import { notesSection } from './notes.js';
import { organsSection } from './organs.js';
import { reviewSection } from './review.js';
import { runSection } from './run.js';
import { seriesSection } from './series.js';
import { submitSection } from './submit.js';
import { versionsSection } from './versions.js';
import { element, fill } from './view.js';

/** Loads the panel's style sheet once. */
export function loadStyle() {
  const href = new URL('panel.css', import.meta.url).href;
  if (!document.querySelector('link[href="' + href + '"]')) {
    document.head.append(element('link', { rel: 'stylesheet', href }));
  }
}

/** Fills an element with the panel of a session; returns a function that ends its updates. */
export function showPanel(node, session) {
  const parts = [
    ...[notesSection, caseSection, messageSection, seriesSection, runSection, organsSection, editSection, reviewSection],
    ...[submitSection, versionsSection, keysSection],
  ];
  const sections = parts.map(make => make(session));
  fill(node, ...sections.map(section => section.node));
  const update = state => sections.forEach(section => section.update(state));
  update(session.state);
  return session.store.subscribe(update);
}

/** Fills an element with a text, such as an error. */
export const showText = (node, text) => fill(node, element('section', {}, element('p', { textContent: text, 'data-cy': 'panel-text' })));
