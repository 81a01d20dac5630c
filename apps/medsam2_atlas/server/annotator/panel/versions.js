/* The stored versions and predictions: loads one, or compares it with the label map on the screen. */

import { comparedWith, endComparison } from '../comparing.js';
import { when } from '../session.js';
import { jumpTo } from '../volume.js';
import { button, element, fill, millilitres, show } from './view.js';

export function versionsSection(session) {
  const list = element('select', { 'data-cy': 'versions', 'aria-label': 'Versions and predictions' });
  const chosen = () => session.state.about.versions[list.selectedIndex];
  const load = button('load-version', 'Load', () =>
    session.doing('Loading …', async () => {
      const { tag, version } = chosen();
      const problem = await session.load(tag, version, { undoable: true });
      session.say(problem ? 'info' : 'done', [tag + ' ' + version + ' was loaded.', problem].filter(Boolean).join(' '));
    })
  );
  const compare = button('compare-version', 'Compare', () => session.doing('Comparing …', () => comparedWith(session, chosen())));
  const none = element('p', { textContent: 'There are no versions or predictions yet.' });
  const picker = element('div', { class: 'line' }, list, load, compare);
  const figures = element('div', { 'data-cy': 'comparison' });
  const node = element('section', {}, element('h3', { textContent: 'Versions and predictions' }), none, picker, figures);
  let listed = null;
  let compared = null;
  return {
    node,
    update({ about, comparison, busy, job, organs }) {
      const versions = about?.versions || [];
      show(none, !versions.length);
      show(picker, Boolean(versions.length));
      if (listed !== about?.versions) {
        listed = about?.versions;
        fill(list, ...versions.map(version => element('option', { textContent: described(version) })));
      }
      load.disabled = compare.disabled = Boolean(busy || job);
      if (compared !== comparison) {
        compared = comparison;
        fill(figures, comparison ? tableOf(session, comparison, organs) : null);
      }
    },
  };
}

const described = ({ tag, version, author, time }) =>
  [tag + ' ' + version, author, when(time)].filter(Boolean).join(' · ');

function tableOf(session, { version, rows }, organs) {
  const titles = new Map(organs.map(({ label, title }) => [label, title]));
  const cell = text => element('td', { textContent: text });
  const lines = [...rows]
    .filter(row => row.first || row.second)
    .sort((a, b) => a.dice - b.dice)
    .map(row => {
      const slices = row.worst.map(z =>
        button('worst-' + row.label + '-' + z, String(z + 1), () => jumpTo(session.services, session.volume, z))
      );
      return element(
        'tr',
        {},
        cell(titles.get(row.label)),
        cell(row.dice.toFixed(3)),
        cell(millilitres(row.first)),
        cell(millilitres(row.second)),
        element('td', {}, ...slices)
      );
    });
  const head = element('tr', {}, ...['Organ', 'Dice', 'yours (ml)', 'other (ml)', 'worst slices'].map(text => element('th', { textContent: text })));
  return element(
    'div',
    { class: 'comparison' },
    element('p', { textContent: 'Yours against ' + described(version) + '. Green: only in yours. Pink: only in the other. Yellow: different organs.' }),
    element('table', {}, element('thead', {}, head), element('tbody', {}, ...lines)),
    button('end-comparison', 'End the comparison', () => endComparison(session))
  );
}
