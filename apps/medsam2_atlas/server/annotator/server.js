/* Requests to this server. Label maps travel as gzip of one byte per voxel, in the order of the CT volume (volume.js). */

import { address, fetched, Refused, SERVER } from '../page/requests.js'; // as seen from SERVER/ohif/

export { address, Refused };

const LOGIN = 'Your login has expired. Log in in another tab (' + SERVER + 'login), then try again here. Your work stays on the screen.';

/**
 * Returns the answer of a route.
 * @throws {Refused} the server refuses the request
 * @throws {Error} the server does not answer
 */
export async function ask(path, query, options = {}) {
  const answer = await fetched(path, query, options);
  if (!answer.ok) {
    const content = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, content, answer.status === 401 ? LOGIN : '');
  }
  return answer;
}

/** Returns the JSON of a route. */
export const askJson = async (path, query, options) => (await ask(path, query, options)).json();

/** Returns bytes as a compressed blob. */
export async function packed(voxels) {
  const stream = new Blob([voxels]).stream().pipeThrough(new CompressionStream('gzip'));
  return new Response(stream).blob();
}

/** Returns the voxels of an answer. `count`: the number of voxels of the CT. */
export async function unpacked(answer, count) {
  const stream = answer.body.pipeThrough(new DecompressionStream('gzip'));
  const voxels = new Uint8Array(await new Response(stream).arrayBuffer());
  if (voxels.length !== count) {
    throw new Error('The server sent ' + voxels.length + ' voxels, but the CT on the screen has ' + count + '.');
  }
  return voxels;
}

/** Sends a label map to a route, and returns the answer. */
export async function sendVoxels(path, query, voxels, method = 'POST') {
  const body = await packed(voxels);
  return ask(path, query, { method, body, headers: { 'Content-Type': 'application/octet-stream' } });
}
