/* Addresses of this server, and its refusals: for the pages, and for the annotator's viewer, which loads this file from here. */

export const SERVER = new URL('..', import.meta.url); // a proxy may serve it below a path of its host

/** An answer that refuses a request. `content`: its JSON, if it has any; `words`: a message instead of the server's. */
export class Refused extends Error {
  constructor(status, content, words = '') {
    const { error = {} } = content;
    super(words || [error.message, error.remedy].filter(Boolean).join(' ') || 'The server answered with status ' + status + '.');
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

/**
 * Returns the answer of a route, whatever its status.
 * @throws {Error} the server does not answer. A browser's own message, such as "Failed to fetch", says little.
 */
export async function fetched(path, query, options = {}) {
  try {
    return await fetch(address(path, query), { credentials: 'same-origin', ...options });
  } catch (error) {
    if (error.name === 'AbortError') {
      throw error;
    }
    throw new Error('The server does not answer. Check that it runs and that you are connected to its network.');
  }
}
