/* Requests of the pages to this server. */

import { address, fetched, Refused, SERVER } from './requests.js';

export { address, Refused };

/** Returns the address of the login, which leads back to this page with its filters. */
export function loginAddress(location = window.location) {
  const page = '/' + location.pathname.slice(SERVER.pathname.length) + location.search;
  return address('login', { next: page });
}

/**
 * Returns the JSON of a route. If the login has expired, opens the login page instead.
 * @throws {Refused} the server refuses the request
 * @throws {Error} the server does not answer
 */
export async function ask(path, query, options = {}) {
  const answer = await fetched(path, query, options);
  if (answer.status === 401) {
    window.location.assign(loginAddress());
    await new Promise(() => undefined); // the page is left
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    throw new Refused(answer.status, content);
  }
  return content;
}

/** Sends a JSON object to a route, and returns the JSON of the answer. */
export const send = (path, body, { method = 'POST', query = {} } = {}) =>
  ask(path, query, { method, body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } });
