/* The choice of the model, the button that segments all organs, and the progress of a run. */

import { cancelModel, runModel } from '../running.js';
import { button, element, fill, show } from './view.js';

/** Returns a duration in words. */
function duration(seconds) {
  return seconds < 90 ? Math.max(1, Math.round(seconds)) + ' s' : Math.round(seconds / 60) + ' min';
}

export function runSection(session) {
  const model = element('select', {
    'data-cy': 'model',
    'aria-label': 'Model',
    onchange: () => session.store.set({ model: model.value }),
  });
  const run = button('segment-all', 'Segment 15 organs', () => runModel(session), { class: 'main' });
  const missing = element('p', { class: 'missing', 'data-cy': 'missing' });
  const bar = element('progress', { max: 1, 'data-cy': 'progress' });
  const stage = element('span', { 'data-cy': 'stage' });
  const cancel = button('cancel', 'Cancel', () => cancelModel(session));
  const running = element('div', { class: 'running', role: 'status' }, stage, bar, cancel);
  const node = element('section', {}, element('div', { class: 'line' }, model, run), missing, running);
  let listed = '';
  return {
    node,
    update({ about, models, model: chosen, job, busy, organs }) {
      const names = models.map(({ name }) => name).join();
      if (names !== listed) {
        listed = names;
        fill(model, ...models.map(({ name, description }) => element('option', { value: name, textContent: name, title: description })));
      }
      model.value = chosen;
      model.disabled = Boolean(job);
      run.textContent = 'Segment ' + (organs.length || 15) + ' organs';
      const lacking = about?.missing[chosen] || '';
      run.disabled = !about || Boolean(job) || Boolean(busy) || Boolean(lacking);
      const offered = about && chosen !== about.offered_model && about.demo_weights && !about.phantom && about.offered_model;
      const advice = offered
        ? 'The demo weights know only synthetic patients. On other CTs, ' + about.offered_model + ' gives better organs.'
        : '';
      missing.textContent = [lacking, advice].filter(Boolean).join(' ');
      show(missing, Boolean(missing.textContent));
      show(running, Boolean(job));
      if (job) {
        bar.value = job.share || 0;
        const left = job.seconds_left ?? job.left;
        const shares = Object.values(job.organs || {});
        const done = shares.filter(share => share >= 1).length;
        const parts = [
          job.state === 'queued' ? 'waiting, ' + job.position + ' before this' : job.state === 'running' ? job.stage : job.state,
          shares.length ? done + ' of ' + organs.length + ' organs' : '',
          left === null || left === undefined ? '' : 'about ' + duration(left) + ' left',
        ];
        stage.textContent = job.model + ': ' + parts.filter(Boolean).join(' · ');
        cancel.disabled = job.state === 'cancelling' || !job.id;
      }
    },
  };
}
