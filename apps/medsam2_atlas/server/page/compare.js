/* Compares two label maps of a case: figures per organ, and pictures of the slices on which they differ most. */

import { sortableTable } from './charts.js';
import { byId, element, fill, words } from './dom.js';
import { showProblem, showUser } from './parts.js';
import { address, ask } from './server.js';
import { fullTime } from './times.js';

const LOW = 0.7;
const MAX_PICTURES = 6;
let about = null;

const chosen = () => {
  const query = new URLSearchParams(window.location.search);
  return { study: query.get('study') || '', first: query.get('first') || '', second: query.get('second') || '' };
};
const nameOf = ({ tag, version }) => tag + '/' + version;
const described = ({ tag, version, author, time }) =>
  [tag === 'final' ? 'signed off ' + version : tag + (version > 1 ? ' ' + version : ''), author, fullTime(time)].filter(Boolean).join(' · ');

/** Returns the link to a slice in the viewer. Slices are counted from 0 in links, and from 1 on the screen. */
function viewerAt(slice) {
  const url = new URL(address(about.viewer));
  url.searchParams.set('slice', String(slice));
  return url.href;
}

async function load() {
  const { study } = chosen();
  if (!study) {
    fill(byId('nothing'), 'Choose a case on the ', element('a', { href: address(''), textContent: 'worklist' }), ', open its details, and press “Compare label maps”.');
    ask('worklist/summary').then(({ you }) => showUser(you)).catch(() => {}); // the page needs nothing else
    return;
  }
  try {
    const [found, summary] = await Promise.all([ask('compare/case', { study }), ask('worklist/summary')]);
    about = found;
    showUser(summary.you);
    byId('demo').hidden = !summary.demo_weights;
    byId('heading').textContent = about.title;
    document.title = 'Compare ' + about.title + ' · medsam2_atlas';
    showProblem(null);
    await compare();
  } catch (error) {
    showProblem('The case cannot be compared. ' + error.message, load);
  }
}

/** Returns the two versions to compare: those in the address, or else the newest version and the newest of another model or person. */
function pair() {
  const { first, second } = chosen();
  const names = about.versions.map(nameOf);
  const one = names.includes(first) ? first : names[0];
  const tag = one?.split('/')[0];
  const other = about.versions.find(version => version.tag !== tag) || about.versions.find(version => nameOf(version) !== one);
  return [one, names.includes(second) ? second : other && nameOf(other)];
}

async function compare() {
  const { versions, study } = about;
  if (versions.length < 2) {
    const link = about.viewer ? element('a', { href: address(about.viewer), textContent: 'Open it in the viewer' }) : null;
    fill(byId('nothing'), versions.length ? 'The case has only one label map. Run another model on it, or correct it. ' : 'The case has no label map yet. Run a model on it. ', link);
    return;
  }
  const [first, second] = pair();
  for (const [id, value] of [['first', first], ['second', second]]) {
    fill(byId(id), ...versions.map(version => element('option', { value: nameOf(version), textContent: described(version) })));
    byId(id).value = value;
  }
  byId('choose').hidden = false;
  byId('result').setAttribute('aria-busy', 'true');
  fill(byId('nothing'), 'Comparing …');
  const { organs } = await ask('annotation/compare', { image: study, first, second });
  const titles = new Map(about.organs.map(({ label, title }) => [String(label), title]));
  const rows = Object.entries(organs).map(([label, figures]) => ({ label, title: titles.get(label) || label, ...figures }));
  fill(byId('nothing'));
  byId('result').hidden = false;
  byId('result').setAttribute('aria-busy', 'false');
  showTable(rows);
  showPictures(rows, { study, first, second });
}

function showTable(rows) {
  const mean = rows.reduce((sum, { dice }) => sum + dice, 0) / Math.max(1, rows.length);
  const same = rows.every(({ worst }) => !worst.length); // Dice is rounded: a few differing voxels leave it at 1
  byId('mean').textContent = !rows.length ? 'Both label maps are empty.' : same ? 'The two label maps are equal.' : 'Mean Dice ' + mean.toFixed(3) + ' over ' + rows.length + ' organs.';
  const ml = value => (value >= 100 ? value.toFixed(0) : value.toFixed(1));
  const difference = value => (Math.abs(value) < 0.05 ? '0.0' : (value < 0 ? '−' : '+') + ml(Math.abs(value)));
  const slices = ({ worst, title }) =>
    element('span', { class: 'slices' }, ...worst.slice(0, 3).map(z => element('a', { href: viewerAt(z), textContent: String(z + 1), 'aria-label': title + ', slice ' + (z + 1) + ' in the viewer' })));
  const table = sortableTable(
    'Lowest Dice first. Slices lead into the viewer.',
    [
      { title: 'Organ', value: ({ title }) => title },
      { title: 'Dice', number: true, value: ({ dice }) => dice, cell: ({ dice }) => element('span', { class: dice < LOW ? 'low' : '', textContent: dice.toFixed(3) }) },
      { title: 'First (ml)', number: true, value: one => one.first_ml, cell: one => ml(one.first_ml) },
      { title: 'Second (ml)', number: true, value: one => one.second_ml, cell: one => ml(one.second_ml) },
      { title: 'Difference (ml)', number: true, value: one => Math.abs(one.second_ml - one.first_ml), cell: one => difference(one.second_ml - one.first_ml) },
      { title: 'Worst slices', value: ({ worst }) => worst[0], cell: slices },
    ],
    rows,
    { column: 1, down: false }
  );
  fill(byId('table'), table);
}

function showPictures(rows, { study, first, second }) {
  const shown = [...rows].filter(({ worst }) => worst.length).sort((a, b) => a.dice - b.dice).slice(0, MAX_PICTURES);
  const items = shown.map(({ label, title, worst, dice }) => {
    const [slice] = worst;
    const src = address('compare/picture', { study, first, second, organ: label, slice });
    const image = element('img', { src, loading: 'lazy', width: 912, height: 300, alt: title + ' on slice ' + (slice + 1) + ': the first label map, the second one, and their differences' });
    image.addEventListener('error', () => image.replaceWith(element('p', { class: 'small', textContent: 'The picture cannot be drawn.' })));
    const caption = element('figcaption', {}, element('span', {}, element('strong', { textContent: title }), ' · Dice ' + dice.toFixed(2)), element('a', { href: viewerAt(slice), textContent: 'Slice ' + (slice + 1) + ' in the viewer' }));
    return element('li', {}, element('figure', {}, image, caption));
  });
  fill(byId('pictures'), ...items);
  byId('shown-slices').hidden = !items.length;
}

for (const id of ['first', 'second']) {
  byId(id).addEventListener('change', () => {
    const query = new URLSearchParams({ study: about.study, first: byId('first').value, second: byId('second').value });
    window.history.pushState(null, '', '?' + query);
    compare().catch(error => showProblem('The label maps cannot be compared. ' + error.message, load));
  });
}
byId('swap').addEventListener('click', () => {
  [byId('first').value, byId('second').value] = [byId('second').value, byId('first').value];
  byId('first').dispatchEvent(new Event('change'));
});
window.addEventListener('popstate', load);
load();
