/* Keeps the label map on the screen on the server while a person edits it: one draft per person and case. */

import { sendVoxels } from './server.js';
import { sameVoxels } from './runs.js';

const DRAFT_MS = 1500;
const RETRY_MS = 10000;

export class Drafting {
  /**
   * @param session the open case
   * @param {Uint8Array} kept the label map that the server has, as a version or as a draft
   */
  constructor(session, kept) {
    this.session = session;
    this.kept = kept;
    this.waiting = false; // whether a change is not on its way to the server yet
    this._sending = Promise.resolve();
  }

  /** Notes a change: it is sent a moment later, together with those that follow. */
  changed() {
    this.waiting = true;
    this._after(DRAFT_MS);
  }

  /** Waits until the work that was to be kept is on the server, so that it does not arrive there after a submission. */
  async settled() {
    this.send();
    await this._sending;
  }

  /**
   * Sends the label map, after an earlier request to do so has ended. Does nothing if it has not changed: Cornerstone reports a change
   * also when it draws a label map in another pane.
   */
  send() {
    clearTimeout(this._timer);
    this.waiting = false;
    const voxels = this.session.layer.read();
    if (sameVoxels(this.kept, voxels)) {
      return;
    }
    this.kept = voxels;
    this.session.store.set({ drafted: 'pending' });
    this._sending = this._sending.then(() => this._keep(voxels));
  }

  /** Ends it; work that waits is sent. */
  close() {
    if (this.waiting || this.session.state.drafted === 'failed') {
      this.send();
    }
    clearTimeout(this._timer);
    this._closed = true;
  }

  async _keep(voxels) {
    const { session } = this;
    try {
      await sendVoxels('annotation/draft', session.query, voxels, 'PUT');
      session.store.set({ drafted: 'kept', ...(this._failure && session.state.message === this._failure ? { message: null } : {}) });
    } catch (error) {
      this.kept = new Uint8Array(0);
      session.store.set({ drafted: 'failed' });
      session.say('error', 'Your unsaved work could not be kept on the server. ' + error.message);
      this._failure = session.state.message; // hidden once the work is kept
      this._after(RETRY_MS);
    }
  }

  _after(milliseconds) {
    clearTimeout(this._timer);
    if (!this._closed) {
      this._timer = setTimeout(() => this.send(), milliseconds);
    }
  }
}
