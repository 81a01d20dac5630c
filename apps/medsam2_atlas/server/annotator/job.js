/* A run of a model in the server's queue: its progress, its end, and cancelling it. */

import { address, ask, askJson } from './server.js';

const PRESENT_MS = 3000;
const PRESENT_TIMES = 30;
const ENDED = new Set(['done', 'failed', 'cancelled']);

/**
 * Starts a model on a case and returns the job; null if its result is stored already. The server cancels the job soon after nobody
 * follows it any more (`attended`).
 */
export async function start(model, image) {
  const answer = await ask('infer/' + encodeURIComponent(model), { image, wait: false, attended: true, output: 'json' }, { method: 'POST' });
  return answer.status === 202 ? answer.json() : null;
}

/**
 * Tells the server from now on that this person's viewer is loading, so that it does not cancel a job from before a reload.
 * Returns a function that ends this; it ends by itself after a while, because a page may never open a case.
 */
export function stayPresent() {
  let left = PRESENT_TIMES;
  const tell = () => {
    askJson('jobs', { mine: true }).catch(() => {}); // the person may have to log in first
    left -= 1;
    if (!left) {
      clearInterval(telling);
    }
  };
  const telling = setInterval(tell, PRESENT_MS);
  tell();
  return () => clearInterval(telling);
}

/** Returns this person's job of one of the models on a case that has not ended, as after a reload; undefined if there is none. */
export async function unfinished(models, image) {
  const jobs = await askJson('jobs', { mine: true });
  return jobs.find(job => job.subject === image && models.includes(job.kind) && ['queued', 'running'].includes(job.state));
}

/**
 * Follows a job until it ends, and returns its last description.
 * @param {(job: object) => void} onProgress called with each description: state, stage, share, organs
 */
export function follow(id, onProgress) {
  return new Promise((resolve, reject) => {
    const events = new EventSource(address('jobs/' + encodeURIComponent(id) + '/events'));
    events.addEventListener('job', ({ data }) => {
      const job = JSON.parse(data);
      onProgress(job);
      if (ENDED.has(job.state)) {
        events.close();
        resolve(job);
      }
    });
    events.onerror = () => {
      if (events.readyState === EventSource.CLOSED) {
        reject(new Error('The connection to the server was lost. The model may still be running.'));
      }
    };
  });
}

/** Cancels a job. */
export const cancel = id => ask('jobs/' + encodeURIComponent(id), {}, { method: 'DELETE' });

/** Estimates the time left of a job's stage from its progress. Returns seconds, or null while there is too little progress. */
export function timer() {
  let stage = '';
  let begun = 0;
  return job => {
    if (job.stage !== stage) {
      [stage, begun] = [job.stage, performance.now()];
    }
    const seconds = (performance.now() - begun) / 1000;
    return job.share > 0.02 && seconds > 1 ? (seconds * (1 - job.share)) / job.share : null;
  };
}
