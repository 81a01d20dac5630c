/* The filters of the worklist. They are kept in the page's address, so that the back button, reloads and bookmarks keep them. */

export const STATES = ['new', 'predicted', 'in work', 'waits for review', 'returned', 'signed off', 'problem'];

/** Columns that can be sorted: title, and whether the first click sorts in descending order. */
export const COLUMNS = {
  patient: { title: 'Case', down: false },
  date: { title: 'Date', down: true },
  state: { title: 'State', down: false },
  confidence: { title: 'Confidence', down: false },
  disagreement: { title: 'Disagreement', down: true },
  author: { title: 'By', down: false },
  time: { title: 'Saved', down: true },
};
export const SIZES = [25, 50, 100, 200];
const USUAL = { state: [], person: '', organ: '', model: '', q: '', sort: 'priority', down: false, page: 1, size: 50 };

/** Returns the filters in a query. Unknown values are dropped, so that a mistyped address shows cases and no error. */
export function parsed(search) {
  const query = new URLSearchParams(search);
  const text = name => (query.get(name) || '').slice(0, 200);
  const whole = (name, fallback) => (/^[1-9][0-9]{0,5}$/.test(query.get(name) || '') ? Number(query.get(name)) : fallback);
  const sort = query.get('sort');
  const size = whole('size', USUAL.size);
  return {
    state: STATES.filter(state => query.getAll('state').includes(state)),
    person: text('person'),
    organ: text('organ'),
    model: text('model'),
    q: text('q'),
    sort: Object.hasOwn(COLUMNS, sort) ? sort : USUAL.sort,
    down: query.get('down') === 'true',
    page: whole('page', 1),
    size: SIZES.includes(size) ? size : USUAL.size,
  };
}

/** Returns the query of filters; usual values are left out. */
export function written(filters) {
  const query = new URLSearchParams();
  for (const [name, usual] of Object.entries(USUAL)) {
    const value = filters[name];
    if (name === 'state') {
      value.forEach(state => query.append('state', state));
    } else if (value !== usual) {
      query.set(name, String(value));
    }
  }
  return query.toString();
}

/** Returns whether filters hide cases. */
export const hides = ({ state, person, organ, model, q }) => Boolean(state.length || person || organ || model || q);

/** Returns filters without those that hide cases; the order and the size of a page stay. */
export const cleared = filters => ({ ...USUAL, sort: filters.sort, down: filters.down, size: filters.size });

/** Returns filters after a click on a column: it is sorted, or its order is reversed. */
export function sortedBy(filters, column) {
  const down = filters.sort === column ? !filters.down : COLUMNS[column].down;
  return { ...filters, sort: column, down, page: 1 };
}
