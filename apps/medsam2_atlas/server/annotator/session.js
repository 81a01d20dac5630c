/* An open case: the CT, the label map that is edited, and its organs.

   The session keeps the label map that the work began from (`base`). The panel shows at each moment what would be saved. */

import { Layer } from './layer.js';
import { changes, counts, sameVoxels } from './runs.js';
import { ask, askJson, sendVoxels, unpacked } from './server.js';
import { storeOf } from './store.js';
import { activate, setRadius } from './tools.js';
import { volumeOf } from './volume.js';

export const WORK = 'medsam2_atlas';
const DRAFT_MS = 1500;
const COUNT_MS = 200;

/** Returns the parameters that name a version in a request; empty for no version. */
export const named = base => (base ? { base_tag: base.tag, base_version: base.version } : {});

export class Session {
  constructor(services, displaySet) {
    this.services = services;
    this.displaySet = displaySet;
    this.volume = volumeOf(displaySet);
    this.base = null; // the loaded version, against which changes are shown
    this.began = null; // the version from which the work began, for the conflict with another person's version
    this.baseVoxels = new Uint8Array(this.volume.count);
    this._kept = this.baseVoxels; // the label map that the server has, as a version or as a draft
    this.store = storeOf({
      about: null,
      message: null,
      organs: [],
      active: 0,
      tool: 'window',
      radius: 8,
      solid: false,
      live: true,
      marks: 0,
      sort: 'table',
      busy: '',
      job: null,
      base: null,
      drafted: '',
      unsaved: false,
      comparison: null,
      models: [],
      model: '',
    });
  }

  get state() {
    return this.store.get();
  }

  get image() {
    return this.state.about.image;
  }

  /** Opens the case with its newest label map, or with the person's draft. */
  async open() {
    const { StudyInstanceUID: study, SeriesInstanceUID: series } = this.displaySet;
    const [about, info] = await Promise.all([askJson('annotation/case', { study, series }), askJson('info/')]);
    const segments = about.organs.map(({ label, title, colour }) => ({ label, title, colour }));
    this.layer = new Layer(this.services, this.displaySet, this.volume, WORK, 'Organs', segments);
    await this.layer.create();
    const first = about.organs[0].label;
    const models = Object.entries(info.models)
      .filter(([name, model]) => model.type === 'segmentation' && name !== 'compare')
      .map(([name, model]) => ({ name, description: model.description }));
    for (const name of Object.keys(about.missing).filter(one => !info.models[one] && one !== 'medsam2' && one !== 'compare')) {
      models.push({ name, description: '' });
    }
    this.store.set({
      about,
      models,
      model: models.some(model => model.name === about.offered_model) ? about.offered_model : models[0]?.name || '',
      organs: about.organs.map(organ => ({ ...organ, ...UNTOUCHED, visible: true, locked: true })),
    });
    this.layer.onChange(() => this._changed());
    await this._loadFirst(about);
    this.choose(first);
    this.setTool('window');
    setRadius(this.state.radius);
  }

  async _loadFirst(about) {
    if (about.draft && !about.draft.problem) {
      await this.load('draft', null, { baseOf: about.draft.base });
      this.say('info', 'Your unsaved work (' + when(about.draft.time) + ') was loaded.', [
        { title: 'Discard it', run: () => this.discardDraft() },
      ]);
    } else if (about.start) {
      await this.load(about.start.tag, about.start.version);
    } else {
      this._counted();
    }
  }

  /** Returns the voxels of a version. */
  async voxelsOf(tag, version) {
    return unpacked(await ask('annotation/label', { image: this.image, tag, version }), this.volume.count);
  }

  /**
   * Loads a version as the label map that is edited. Except for the first one, this can be undone.
   * @param {string} tag tag of the label map, such as `final`
   * @param {number|null} version its number
   * @param options `baseOf`: the version from which a draft was made; `undoable`: whether loading can be undone
   */
  async load(tag, version, { baseOf = null, undoable = false } = {}) {
    const voxels = await this.voxelsOf(tag, version);
    const isDraft = tag === 'draft';
    this.base = isDraft ? baseOf : { tag, version };
    // A prediction that is loaded later does not tell whether its reader has seen a final version that was saved meanwhile.
    if (!this.began || (tag === 'final' && (this.began.tag !== 'final' || version > this.began.version))) {
      this.began = this.base;
    }
    this.baseVoxels = !isDraft ? voxels : baseOf ? await this.voxelsOf(baseOf.tag, baseOf.version) : new Uint8Array(this.volume.count);
    if (!this.state.unsaved) {
      this._kept = voxels; // a stored version is no work that must be kept, unless undoing it brings such work back
    }
    this.layer.write(voxels, undoable);
    const { confidence, problem } = this.state.about.versions.find(one => one.tag === tag && one.version === version) || {};
    this.store.set({
      base: this.base,
      drafted: isDraft ? 'loaded' : '',
      organs: this.state.organs.map(organ => ({ ...organ, checked: false, confidence: confidence?.[organ.label] ?? null })),
    });
    this._counted();
    return problem || '';
  }

  /** Removes the draft and loads the version that it began from. */
  async discardDraft() {
    await this.settled();
    await ask('annotation/draft', { image: this.image }, { method: 'DELETE' });
    if (this.base) {
      await this.load(this.base.tag, this.base.version, { undoable: true });
    } else {
      this.layer.write(new Uint8Array(this.volume.count));
    }
    this._kept = this.layer.read();
    this.store.set({ drafted: '', message: null });
  }

  /** Notes that the label map was signed off: the work now begins from that version. */
  submitted(base, voxels) {
    this.base = this.began = { tag: base.tag, version: base.version };
    this.baseVoxels = this._kept = voxels;
    this.store.set({ base: this.base, drafted: '' });
    this._counted();
  }

  /** Reads the case again, after the server has stored something. */
  async refresh() {
    this.store.set({ about: await askJson('annotation/case', { image: this.image }) });
  }

  /** Chooses the organ that tools edit. It is unlocked while it is chosen. */
  choose(label) {
    this.store.set({ active: label });
    this.layer.edit(label);
    this._lock();
  }

  /** Changes what the panel keeps about an organ: visible, locked, checked. */
  setOrgan(label, change) {
    this.store.set({ organs: this.state.organs.map(organ => (organ.label === label ? { ...organ, ...change } : organ)) });
    if ('visible' in change) {
      this.layer.setVisible(label, change.visible);
    }
    if ('locked' in change) {
      this._lock();
    }
  }

  /** Returns the labels that tools and answers of MedSAM2 must not change. */
  locked() {
    const { organs, active } = this.state;
    return new Set(organs.filter(organ => organ.locked && organ.label !== active).map(organ => organ.label));
  }

  _lock() {
    this.layer.setLocked(this.locked());
  }

  setTool(id) {
    this.store.set({ tool: id });
    activate(this.services, id, this.state.solid);
  }

  setSolid(solid) {
    this.store.set({ solid });
    activate(this.services, this.state.tool, solid);
  }

  setRadius(radius) {
    this.store.set({ radius });
    setRadius(radius);
  }

  undo() {
    window.cornerstone.utilities.HistoryMemo.DefaultHistoryMemo.undo();
  }

  redo() {
    window.cornerstone.utilities.HistoryMemo.DefaultHistoryMemo.redo();
  }

  /** Shows a message. `kind`: info, done, error. `actions`: buttons with `title` and `run`. */
  say(kind, text, actions = []) {
    this.store.set({ message: { kind, text, actions } });
  }

  /** Runs a task with a note of what is going on; shows its error. */
  async doing(text, task) {
    this.store.set({ busy: text });
    try {
      return await task();
    } catch (error) {
      if (error.name !== 'AbortError') {
        this.say('error', 'Not done. ' + error.message);
      }
      return undefined;
    } finally {
      this.store.set({ busy: '' });
    }
  }

  _changed() {
    clearTimeout(this._counting);
    this._counting = setTimeout(() => this._counted(), COUNT_MS);
    clearTimeout(this._drafting);
    this._drafting = setTimeout(() => this._draft(), DRAFT_MS);
    this.waiting = true;
  }

  /** Counts the voxels of each organ, and its changes against the version that the work began from. */
  _counted() {
    const voxels = this.layer.read();
    const now = counts(voxels);
    const { added, removed } = changes(this.baseVoxels, voxels);
    const ml = this.volume.millilitres;
    let unsaved = false;
    const organs = this.state.organs.map(organ => {
      const { label } = organ;
      unsaved ||= added[label] + removed[label] > 0;
      return { ...organ, ml: now[label] * ml, added: added[label] * ml, removed: removed[label] * ml };
    });
    this.store.set({ organs, unsaved });
  }

  /** Waits until the work that was to be kept is on the server, so that it does not arrive there after a submission. */
  async settled() {
    clearTimeout(this._drafting);
    this._draft();
    await this._keeping;
  }

  /**
   * Keeps the label map on the server, after an earlier request to do so has ended. Does nothing if it has not changed: Cornerstone
   * reports a change also when it draws a label map in another pane.
   */
  _draft() {
    this.waiting = false;
    const voxels = this.layer.read();
    if (sameVoxels(this._kept, voxels)) {
      return;
    }
    this._kept = voxels;
    this.store.set({ drafted: 'pending' });
    this._keeping = (this._keeping || Promise.resolve()).then(() => this._keep(voxels));
  }

  async _keep(voxels) {
    try {
      await sendVoxels('annotation/draft', { image: this.image, ...named(this.began) }, voxels, 'PUT');
      this.store.set({ drafted: 'kept' });
    } catch (error) {
      this._kept = new Uint8Array(0); // the next change tries again
      this.store.set({ drafted: 'failed' });
      this.say('error', 'Your unsaved work could not be kept on the server. ' + error.message);
    }
  }

  /** Ends the session; work that waits to be kept is sent. Its history is forgotten: undoing must not reach another case. */
  close() {
    if (this.waiting && this.layer) {
      this._draft();
    }
    const { DefaultHistoryMemo } = window.cornerstone.utilities.HistoryMemo;
    DefaultHistoryMemo.size = DefaultHistoryMemo.size; // empties it
    this.layer?.stop();
    clearTimeout(this._drafting);
    clearTimeout(this._counting);
  }
}

const UNTOUCHED = { checked: false, confidence: null, ml: 0, added: 0, removed: 0 };

/** Returns a time of the server in the browser's notation. */
export const when = time => (time ? new Date(time).toLocaleString() : 'an earlier time');
