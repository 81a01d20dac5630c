/* The worklist: loads the cases and the summary, shows them, and follows filters, sorting, paging and shortcuts. */

import { showBatch } from './batch.js';
import { claimed, showDetails, shownOf } from './case_dialog.js';
import { byId, element, fill, words } from './dom.js';
import { cleared, COLUMNS, hides, parsed, sortedBy, written } from './filters.js';
import { followKeys, showKeys } from './keys.js';
import { keepReason } from './next_reason.js';
import { say, showProblem, showUser } from './parts.js';
import { showRows } from './rows.js';
import { address, ask, send } from './server.js';
import { showEmpty, showModels, showPacsProblem, showProgress, showQueue } from './summary.js';
import { followUploads } from './upload.js';

const BUSY_MS = 5000; // while a job or a batch runs, models are loaded, or the PACS cannot be listed
const QUIET_MS = 20000;
const TYPING_MS = 250;

let filters = parsed(window.location.search);
let summary = null;
let list = null;
let loading = null; // ends the request for cases that a newer one replaces
let timer = 0;
const body = byId('cases').tBodies[0];

/** Loads cases and summary, and shows them. `quiet`: without a note; errors of a refresh do not replace what is shown. */
async function load(quiet = false) {
  loading?.abort();
  const mine = new AbortController();
  loading = mine;
  clearTimeout(timer);
  byId('cases').setAttribute('aria-busy', String(!quiet));
  try {
    const query = Object.fromEntries(Object.entries(filters).map(([name, value]) => [name, value === false ? null : value]));
    const options = { signal: mine.signal };
    [list, summary] = await Promise.all([ask('worklist/cases', query, options), ask('worklist/summary', {}, options)]);
    if (list.pages && filters.page > list.pages) {
      change({ page: list.pages }, true);
      return;
    }
    showProblem(null);
    show();
  } catch (error) {
    if (mine.signal.aborted) {
      return;
    }
    showProblem((quiet ? 'The list may be out of date. ' : 'The cases cannot be loaded. ') + error.message, () => load());
  } finally {
    if (loading === mine) {
      byId('cases').setAttribute('aria-busy', 'false');
      timer = setTimeout(refresh, summary && (!summary.models.length || summary.pacs_problem || summary.batch.running || hasJobs()) ? BUSY_MS : QUIET_MS);
    }
  }
}

/** Returns whether a job of this person has not ended. */
const hasJobs = () => Boolean(summary?.queue.yours.some(job => !job.ended));

/** Loads the list again. A hidden page does so only while a job runs: the server cancels jobs that no page follows. */
function refresh() {
  if (document.hidden && !hasJobs()) {
    timer = setTimeout(refresh, QUIET_MS);
  } else {
    load(true);
  }
}

/** Changes filters, keeps them in the address, and loads the cases. Changes of typed text replace the last entry of the history. */
function change(values, replace = false) {
  filters = { ...filters, page: 1, ...values };
  const query = written(filters);
  const url = window.location.pathname + (query ? '?' + query : '');
  window.history[replace ? 'replaceState' : 'pushState'](null, '', url);
  showFilters();
  load();
}

function show() {
  showUser(summary.you);
  byId('upload').hidden = !summary.may.upload;
  showProgress(summary, filters.state, toggleState);
  showQueue(summary, say, () => load(true));
  showBatch(summary, say, () => load(true));
  showModels(summary);
  showPacsProblem(summary);
  showRows(body, list.rows, summary.you.name, { open, details });
  byId('cases').hidden = !list.rows.length;
  byId('cases').classList.toggle('undated', filters.sort !== 'date' && !list.rows.some(row => row.date)); // as in a folder of NIfTI files
  byId('shown').textContent = shownOf(list);
  showEmpty({ summary, shown: list.rows.length, filtered: hides(filters), clear: clearFilters });
  showReason();
  showPages();
  showFilters();
}

/** Shows which case is the next one, and why. */
async function showReason() {
  const left = summary.total - (summary.counts['signed off'] || 0) - (summary.counts['waits for review'] || 0);
  byId('next').disabled = left <= 0;
  const found = left <= 0 ? {} : await ask('worklist/next').catch(() => ({ why: ' ' }));
  byId('next').disabled = !found.why;
  byId('next-reason').textContent = found.why || (summary.total ? 'Nothing is left to annotate.' : '');
}

function showPages() {
  const { page, pages } = list;
  byId('pages').hidden = pages <= 1;
  byId('page-text').textContent = 'Page ' + page + ' of ' + pages;
  byId('previous').disabled = page <= 1;
  byId('following').disabled = page >= pages;
}

/** Shows the filters in their fields, and the order in the header of the table. */
function showFilters() {
  const options = (select, all, values, chosen) => {
    const names = [...new Set([...values, chosen].filter(Boolean))];
    const text = JSON.stringify(names);
    if (select.listed !== text) {
      select.listed = text;
      fill(select, element('option', { value: '', textContent: all }), ...names.map(name => element('option', { value: name, textContent: select.id === 'organ' ? words(name) : name })));
    }
    select.value = chosen;
  };
  if (list) {
    options(byId('person'), 'Anybody', list.people, filters.person);
    options(byId('model'), 'Any model', list.models, filters.model);
    options(byId('organ'), 'Any organ', list.organs, filters.organ);
  }
  if (document.activeElement !== byId('search')) {
    byId('search').value = filters.q;
  }
  byId('size').value = String(filters.size);
  byId('order').value = filters.sort + (filters.down ? ' down' : '');
  byId('clear').hidden = !hides(filters);
  byId('priority').hidden = filters.sort === 'priority';
  for (const header of document.querySelectorAll('th[data-sort]')) {
    const sorted = header.dataset.sort === filters.sort;
    header.setAttribute('aria-sort', sorted ? (filters.down ? 'descending' : 'ascending') : 'none');
  }
}

function toggleState(state) {
  const { state: chosen } = filters;
  change({ state: chosen.includes(state) ? chosen.filter(one => one !== state) : [...chosen, state] });
}

const clearFilters = () => change(cleared(filters));

/** Runs a task of a button; shows its error in words. */
async function doing(task) {
  try {
    await task();
  } catch (error) {
    showProblem(error.message, () => {
      showProblem(null);
      load();
    });
  }
}

/** Opens a case in the viewer. A case to work on is claimed first. */
function open(row) {
  if (row.action === 'fix' || !row.viewer) {
    details(row);
    return;
  }
  doing(async () => {
    if (row.action === 'view' || row.action === 'review' || (await claimed(row))) {
      window.location.assign(address(row.viewer));
    }
  });
}

function details(row) {
  const people = [...new Set([...summary.users, ...list.people])];
  const about = { you: summary.you.name, may: summary.may, people, review: summary.review, done: () => load(true) };
  doing(() => showDetails(row, about));
}

/** Claims the next case and opens it. The viewer shows why it is the next one. */
function next() {
  doing(async () => {
    byId('next').disabled = true;
    try {
      const found = await send('worklist/next', { strategy: null, except: null });
      if (!found.study) {
        say('Nothing is left: all cases are signed off or in work.');
        load(true);
        return;
      }
      keepReason(found);
      byId('next-reason').textContent = 'Opening the case. ' + found.why;
      window.location.assign(address(found.viewer));
    } finally {
      byId('next').disabled = false;
    }
  });
}

function turnPage(step) {
  const page = filters.page + step;
  if (list && page >= 1 && page <= list.pages) {
    change({ page });
    byId('list').scrollIntoView();
  }
}

function follow() {
  let typing = 0;
  byId('search').addEventListener('input', event => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ q: event.target.value.trim() }, true), TYPING_MS);
  });
  for (const name of ['person', 'organ', 'model']) {
    byId(name).addEventListener('change', event => change({ [name]: event.target.value }));
  }
  byId('size').addEventListener('change', event => change({ size: Number(event.target.value) }));
  byId('order').addEventListener('change', event => {
    const [sort, down] = event.target.value.split(' ');
    change({ sort, down: Boolean(down) });
  });
  for (const [name, { title, down }] of Object.entries(COLUMNS)) {
    byId('order').append(element('option', { value: name, textContent: title + ', ascending' }), element('option', { value: name + ' down', textContent: title + ', descending' }));
    const header = document.querySelector('th[data-sort="' + name + '"]');
    header.firstElementChild.addEventListener('click', () => change(sortedBy(filters, name)));
    header.firstElementChild.title = 'Sort by ' + title.toLowerCase() + (down ? ', highest first' : '');
  }
  byId('clear').addEventListener('click', clearFilters);
  byId('priority').addEventListener('click', () => change({ sort: 'priority', down: false }));
  byId('next').addEventListener('click', next);
  byId('previous').addEventListener('click', () => turnPage(-1));
  byId('following').addEventListener('click', () => turnPage(1));
  byId('keys').addEventListener('click', showKeys);
  window.addEventListener('popstate', () => {
    filters = parsed(window.location.search);
    clearTimeout(typing);
    byId('search').value = filters.q; // also while it has the focus: the list no longer shows what was typed
    showFilters();
    load();
  });
  window.addEventListener('pageshow', event => event.persisted && load(true)); // back from the viewer
  document.addEventListener('visibilitychange', () => document.hidden || load(true));
  followKeys(body, { search: () => byId('search').focus(), next, open, details, page: turnPage });
  followUploads(() => load(true));
}

follow();
showFilters();
load();
