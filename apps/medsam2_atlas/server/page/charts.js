/* Small charts as SVG: bars per day, and lines over time. Each has a text for screen readers, and its figures as a table. */

import { element, svg } from './dom.js';

const WIDTH = window.matchMedia('(max-width: 40rem)').matches ? 320 : 640; // texts keep their size on a phone
const HEIGHT = 200;
const LEFT = 34;
const BOTTOM = 22;
const TOP = 12;

/** Returns round steps of an axis from 0 to at least `most`. */
export function stepsTo(most) {
  const rough = Math.max(most, 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].map(factor => factor * power).find(value => value >= rough));
  return Array.from({ length: Math.ceil(Math.max(most, 1) / step) + 1 }, (_, i) => i * step);
}

const text = (x, y, content, anchor = 'middle') => {
  const node = svg('text', { x, y, 'text-anchor': anchor });
  node.textContent = content;
  return node;
};
const day = name => {
  const date = new Date(name + 'T00:00');
  return Number.isNaN(date.getTime()) ? name : date.toLocaleDateString('en-GB', { day: 'numeric', month: 'short' });
};

function frame(label, ticks, scale, format) {
  const chart = svg('svg', { viewBox: '0 0 ' + WIDTH + ' ' + HEIGHT, role: 'img', 'aria-label': label, class: 'chart' });
  for (const tick of ticks) {
    chart.append(svg('line', { x1: LEFT, x2: WIDTH, y1: scale(tick), y2: scale(tick), class: 'grid' }), text(LEFT - 6, scale(tick) + 4, format(tick), 'end'));
  }
  return chart;
}

/** Returns the names of a few places of an axis, at most one in 60 pixels, for the element at each index. */
function names(chart, list, place) {
  const every = Math.max(1, Math.ceil(list.length / ((WIDTH - LEFT) / 70)));
  list.forEach((name, i) => {
    if ((list.length - 1 - i) % every === 0) {
      chart.append(text(Math.min(WIDTH - 22, place(i)), HEIGHT - 5, day(name)));
    }
  });
}

/**
 * Returns a chart with a bar per day.
 * @param {{day: string, value: number}[]} days
 */
export function bars(days, label) {
  const ticks = stepsTo(Math.max(...days.map(({ value }) => value)));
  const scale = value => HEIGHT - BOTTOM - (value / ticks.at(-1)) * (HEIGHT - BOTTOM - TOP);
  const chart = frame(label, ticks, scale, String);
  const width = (WIDTH - LEFT) / days.length;
  const place = i => LEFT + (i + 0.5) * width;
  days.forEach(({ day: name, value }, i) => {
    const bar = svg('rect', { x: place(i) - 0.36 * width, width: 0.72 * width, y: scale(value), height: scale(0) - scale(value), rx: Math.min(3, width / 6), class: 'series-0' });
    const title = svg('title');
    title.textContent = day(name) + ': ' + value;
    bar.append(title);
    chart.append(bar);
  });
  names(chart, days.map(({ day: name }) => name), place);
  return chart;
}

/**
 * Returns a chart with a line per series; values are 0..1, null where there is none.
 * @param {string[]} times
 * @param {{name: string, values: (number|null)[]}[]} series
 */
export function lines(times, series, label) {
  const known = series.flatMap(({ values }) => values).filter(value => value !== null && value !== undefined);
  const lowest = Math.floor(Math.min(...known, 0.9) * 10) / 10;
  const ticks = Array.from({ length: Math.round((1 - lowest) * 10) + 1 }, (_, i) => lowest + i / 10).filter((_, i, all) => all.length < 7 || i % 2 === (all.length - 1) % 2);
  const scale = value => HEIGHT - BOTTOM - ((value - lowest) / (1 - lowest)) * (HEIGHT - BOTTOM - TOP);
  const chart = frame(label, ticks, scale, value => value.toFixed(1));
  const place = i => (times.length < 2 ? (LEFT + WIDTH) / 2 : LEFT + 14 + (i / (times.length - 1)) * (WIDTH - LEFT - 40));
  series.forEach(({ name, values }, number) => {
    const points = values.map((value, i) => [place(i), value]).filter(([, value]) => value !== null && value !== undefined);
    const kind = 'series-' + (number % 5);
    chart.append(svg('polyline', { points: points.map(([x, value]) => x + ',' + scale(value)).join(' '), class: 'line ' + kind, ...(number % 2 ? { 'stroke-dasharray': '7 4' } : {}) }));
    for (const [x, value] of points) {
      const dot = svg('circle', { cx: x, cy: scale(value), r: 3.5, class: kind });
      const title = svg('title');
      title.textContent = name + ': ' + value.toFixed(3);
      dot.append(title);
      chart.append(dot);
    }
  });
  names(chart, times, place);
  return chart;
}

/** Returns the legend of a chart with lines. */
export const legend = series =>
  element('p', { class: 'legend' }, ...series.map(({ name }, number) => element('span', {}, element('span', { class: 'swatch series-' + (number % 5), 'aria-hidden': 'true' }), name)));

/**
 * Returns a table whose columns can be sorted by a click on their headers.
 * @param {string} caption
 * @param {{title: string, value: (row: object) => *, cell?: (row: object) => Node|string, number?: boolean}[]} columns
 * @param {object[]} rows
 * @param {{column: number, down: boolean}} order the order at first
 */
export function sortableTable(caption, columns, rows, order) {
  const body = element('tbody');
  const state = { ...order };
  const headers = columns.map(({ title, number }, i) => {
    const sort = () => {
      state.down = state.column === i ? !state.down : Boolean(number);
      state.column = i;
      show();
    };
    return element('th', { scope: 'col', class: number ? 'number' : '' }, element('button', { type: 'button', textContent: title, onclick: sort }));
  });
  const show = () => {
    const { value } = columns[state.column];
    const sign = state.down ? -1 : 1;
    const missing = row => value(row) === null || value(row) === undefined;
    const sorted = [...rows].sort((a, b) => {
      if (missing(a) || missing(b)) {
        return missing(a) - missing(b);
      }
      return sign * (typeof value(a) === 'number' ? value(a) - value(b) : String(value(a)).localeCompare(String(value(b)), 'en', { numeric: true }));
    });
    headers.forEach((header, i) => header.setAttribute('aria-sort', i === state.column ? (state.down ? 'descending' : 'ascending') : 'none'));
    body.replaceChildren(
      ...sorted.map(row =>
        element(
          'tr',
          {},
          ...columns.map(({ value: of, cell, number }, i) => {
            const shown = cell ? cell(row) : (of(row) ?? '–');
            return element(i ? 'td' : 'th', { class: number ? 'number' : '', scope: i ? null : 'row' }, shown instanceof Node ? shown : String(shown));
          })
        )
      )
    );
  };
  show();
  return element('table', { class: 'figures' }, element('caption', {}, element('span', { textContent: caption })), element('thead', {}, element('tr', {}, ...headers)), body);
}
