/* A run of a model in the server's queue: its progress, its end, and cancelling it. */

import { address, ask, askJson } from './server.js';

const PRESENT_MS = 3000;
const PRESENT_TIMES = 30;
const ASK_MS = 3000;
const MAX_FAILURES = 20;
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

/**
 * Returns this person's job of one of the models on a case that has not ended, as after a reload; undefined if there is none. Jobs
 * of scripts are left alone (`attended`).
 */
export async function unfinished(models, image) {
  const jobs = await askJson('jobs', { mine: true });
  return jobs.find(job => job.attended && job.subject === image && models.includes(job.kind) && ['queued', 'running'].includes(job.state));
}

/**
 * Follows a job until it ends, and returns its last description. A browser gives up an event stream for good if the answer is an
 * error, as of a proxy whose server starts again. Then the job is asked for, which the server counts as following, until it
 * answers and can be followed again.
 * @param {(job: object) => void} onProgress called with each description: state, stage, share, organs
 */
export function follow(id, onProgress) {
  const path = 'jobs/' + encodeURIComponent(id);
  return new Promise((resolve, reject) => {
    let failures = 0;
    const showAndSayWhetherEnded = job => {
      failures = 0;
      onProgress(job);
      const ended = ENDED.has(job.state);
      if (ended) {
        resolve(job);
      }
      return ended;
    };
    const listen = () => {
      const events = new EventSource(address(path + '/events'));
      events.addEventListener('job', ({ data }) => showAndSayWhetherEnded(JSON.parse(data)) && events.close());
      events.onerror = () => {
        if (events.readyState === EventSource.CLOSED) {
          setTimeout(look, ASK_MS);
        }
      };
    };
    const look = async () => {
      try {
        if (!showAndSayWhetherEnded(await askJson(path))) {
          listen();
        }
      } catch (error) {
        failures += 1;
        if (error.status === 404) {
          reject(new Error('The server does not know this run any more, perhaps because it was started again. Run the model again.'));
        } else if (failures >= MAX_FAILURES) {
          reject(new Error('The connection to the server was lost, so the server cancels the run. ' + error.message));
        } else {
          setTimeout(look, ASK_MS);
        }
      }
    };
    listen();
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
