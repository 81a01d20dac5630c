/* The figures of the team: cases a day, work per organ and person, Dice of the models over time, agreement between people. */

import { bars, legend, lines, sortableTable } from './charts.js';
import { byId, counted, element, fill, words } from './dom.js';
import { showProblem, showUser } from './parts.js';
import { address, ask } from './server.js';

const DAYS = [7, 30, 90, 365];
let figures = null;

const chosenDays = () => {
  const given = Number(new URLSearchParams(window.location.search).get('days'));
  return DAYS.includes(given) ? given : 30;
};
const rounded = (value, digits) => (value === null || value === undefined ? '–' : value.toFixed(digits));
const nothing = text => element('p', { class: 'small', textContent: text });

async function load() {
  byId('days').value = String(chosenDays());
  try {
    const [found, summary] = await Promise.all([ask('worklist/figures', { days: chosenDays() }), ask('worklist/summary')]);
    figures = found;
    showProblem(null);
    showUser(summary.you);
    byId('demo').hidden = !summary.demo_weights;
    show(summary);
  } catch (error) {
    showProblem('The figures cannot be loaded. ' + error.message, load);
  }
}

function show(summary) {
  const { days, people, organs, agreement, total } = figures;
  const annotator = summary.you.role === 'annotator';
  const card = (value, name) => element('div', { class: 'panel card' }, element('strong', { textContent: value }), element('span', { class: 'small', textContent: name }));
  fill(
    byId('cards'),
    card(total.signed_off, (total.signed_off === 1 ? 'case' : 'cases') + ' signed off in ' + counted(days.length, 'day')),
    card((summary.counts['signed off'] || 0) + ' of ' + summary.total, summary.review ? 'cases signed off and accepted' : 'cases signed off'),
    card(total.minutes === null ? '–' : rounded(total.minutes, 1) + ' min', 'median active time of ' + counted(total.timed, 'case')),
    card(rounded(total.agreement, 2), 'median Dice between ' + (annotator ? 'you and others' : 'people'))
  );
  fill(
    byId('per-day'),
    total.signed_off
      ? bars(days.map(({ day, signed_off: value }) => ({ day, value })), 'Signed-off cases a day: ' + counted(total.signed_off, 'case') + ' in ' + counted(days.length, 'day'))
      : nothing('No case was signed off in these days.')
  );
  showTrend();
  fill(byId('per-organ'), organs.length ? organTable(organs) : nothing('There are no corrections yet. Submit a case in the viewer.'));
  const own = annotator ? nothing('You see your own figures. Reviewers see those of everybody.') : null;
  fill(byId('per-person'), people.length ? personTable(people) : nothing('Nobody has signed off a case in these days.'), own);
  const unknown = figures.agreement_unknown || 0;
  const left = unknown ? nothing(counted(unknown, 'pair') + ' left out: it is not known whether one person began with the other’s label map.') : null;
  fill(byId('between'), agreement.length ? agreementTable(agreement) : nothing('No case was annotated by two people independently yet.'), left);
}

/** Shows Dice over time of one organ, or the mean of all. */
function showTrend() {
  const { trend } = figures;
  const organ = byId('trend-organ');
  const names = [...new Set(trend.flatMap(({ dice }) => Object.keys(dice)))];
  if (organ.options.length === 1) {
    organ.append(...names.map(name => element('option', { value: name, textContent: words(name) })));
  }
  organ.parentElement.hidden = !trend.length;
  if (!trend.length) {
    fill(byId('trend'), nothing('Dice of the models against the signed-off label maps appears here after the first corrected predictions.'));
    return;
  }
  const when = one => one.day || one.week;
  const times = [...new Set(trend.map(when))].sort();
  const models = [...new Set(trend.map(({ model }) => model))];
  const series = models.map(model => ({
    name: model,
    values: times.map(time => {
      const found = trend.find(one => one.model === model && when(one) === time);
      return found ? ((organ.value ? found.dice[organ.value] : found.mean) ?? null) : null;
    }),
  }));
  const label = 'Dice against signed-off label maps, ' + (organ.value ? words(organ.value) : 'mean of the organs') + ': ' +
    series.map(({ name, values }) => name + ' ' + rounded(values.findLast(value => value !== null), 2)).join(', ') + ' at the end';
  const begun = models.map(model => nothing(begunWith(model, trend.filter(one => one.model === model))));
  fill(byId('trend'), legend(series), lines(times, series, label), ...begun, nothing('A person who begins with a prediction leaves what looks right: Dice then measures corrections, not accuracy.'));
}

/** Returns how many cases of a model's weeks were drawn from its prediction, in words. */
function begunWith(model, weeks) {
  const sum = key => weeks.reduce((number, one) => number + one[key], 0);
  const unknown = sum('start_unknown');
  return model + ': ' + sum('began_with_it') + ' of ' + counted(sum('cases'), 'case') + ' drawn from its prediction' + (unknown ? '; unknown for ' + unknown : '') + '.';
}

const organTable = organs =>
  sortableTable(
    'Minutes: median a case. Edited: mean a case. Dice: median of the predictions against signed-off label maps; where these were drawn from the prediction, it measures corrections.',
    [
      { title: 'Organ', value: ({ organ }) => words(organ) },
      { title: 'Minutes', number: true, value: ({ minutes }) => minutes, cell: ({ minutes }) => rounded(minutes, 1) },
      { title: 'Edited (ml)', number: true, value: one => one.edited_ml, cell: one => rounded(one.edited_ml, 1) },
      { title: 'Edited voxels', number: true, value: one => one.edited_voxels, cell: one => (one.edited_voxels ?? '–').toLocaleString('en-GB') },
      { title: 'Dice', number: true, value: ({ dice }) => dice, cell: ({ dice }) => rounded(dice, 3) },
    ],
    organs,
    { column: 2, down: true }
  );

const personTable = people =>
  sortableTable(
    'Minutes: median active time a case.',
    [
      { title: 'Person', value: ({ person }) => person || 'without login' },
      { title: 'Signed off', number: true, value: one => one.signed_off },
      { title: 'Minutes', number: true, value: ({ minutes }) => minutes, cell: ({ minutes }) => rounded(minutes, 1) },
    ],
    people,
    { column: 1, down: true }
  );

function agreementTable(agreement) {
  const lowest = ({ dice }) => Object.entries(dice).sort(([, a], [, b]) => a - b)[0];
  return sortableTable(
    'Dice between label maps of two people that were not made from each other. People who began with the same label map (same start) agree more.',
    [
      {
        title: 'Case',
        value: ({ title, study }) => title || study,
        cell: ({ title, study }) => element('a', { href: address('compare', { study }), textContent: title || study }),
      },
      { title: 'People', value: ({ people }) => people.join(' and ') },
      { title: 'Mean Dice', number: true, value: ({ mean }) => mean, cell: ({ mean }) => rounded(mean, 3) },
      { title: 'Same start', value: one => (one.same_start ? 'yes' : 'no') },
      { title: 'Lowest', value: one => (lowest(one) ? lowest(one)[1] : null), cell: one => (lowest(one) ? words(lowest(one)[0]) + ' ' + rounded(lowest(one)[1], 2) : '–') },
    ],
    agreement,
    { column: 2, down: false }
  );
}

byId('days').addEventListener('change', event => {
  window.history.pushState(null, '', '?days=' + event.target.value);
  load();
});
byId('trend-organ').addEventListener('change', showTrend);
window.addEventListener('popstate', load);
load();
