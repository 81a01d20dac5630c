/* Requests of the pages to this server. */

const SERVER = new URL('..', import.meta.url); // a proxy may serve it below a path of its host

/** An answer that refuses a request. `content`: its JSON, if it has any. */
export class Refused extends Error {
  constructor(status, content) {
    const { error = {} } = content;
    super([error.message, error.remedy].filter(Boolean).join(' ') || 'The server answered with status ' + status + '.');
    this.status = status;
    this.content = content;
  }
}

/** Returns the address of a path of this server with a query. A list becomes a repeated parameter; null and '' are left out. */
export function address(path, query = {}) {
  const url = new URL(path.replace(/^\//, ''), SERVER);
  for (const [key, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== '') {
        url.searchParams.append(key, String(one));
      }
    }
  }
  return url.href;
}

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
  let answer;
  try {
    answer = await fetch(address(path, query), { credentials: 'same-origin', ...options });
  } catch (error) {
    if (error.name === 'AbortError') {
      throw error;
    }
    throw new Error('The server does not answer. Check that it runs and that you are connected to its network.');
  }
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
