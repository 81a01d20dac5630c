/* An open case: the CT, the label map that is edited, and its organs.

   The session keeps the label map that the work began from (`base`). The panel shows at each moment what would be saved. */

import { fullTime } from '../page/times.js'; // as seen from SERVER/ohif/
import { Activity, followActivity } from './activity.js';
import { Drafting } from './drafting.js';
import { Layer } from './layer.js';
import { allMarks, removeMarks } from './marks.js';
import { changes, counts, sameVoxels } from './runs.js';
import { ask, askJson, unpacked } from './server.js';
import { storeOf } from './store.js';
import { activate, setRadius } from './tools.js';
import { volumeOf } from './volume.js';

export const WORK = 'medsam2_atlas';
const COUNT_MS = 200;

/** Returns the parameters that name a version in a request; empty for no version. */
export const named = base => (base ? { base_tag: base.tag, base_version: base.version } : {});

export class Session {
  constructor(services, displaySet) {
    this.services = services;
    this.displaySet = displaySet;
    this.volume = volumeOf(displaySet);
    this.base = null; // the loaded version, against which changes are shown
    this.known = 0; // number of the newest final version that this person has seen; 0 for none
    this.mark = ''; // identifies the image: what was drawn on another one is refused
    this.baseVoxels = new Uint8Array(this.volume.count);
    this.drafting = new Drafting(this, this.baseVoxels);
    this._own = 0; // number of the version that this person has signed off here
    this._tasks = [];
    this.closeQuestion = null; // answers an open question when the case is closed
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
      frozen: false,
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
    this.mark = about.image_mark;
    try {
      await this._loadFirst(about);
    } catch (error) {
      this._unopened(about, error);
      return;
    }
    this.layer.onChange(() => this._changed());
    this.choose(first);
    this.activity = new Activity(about.image);
    this._endActivity = followActivity(this.activity);
    this.setTool('window');
    setRadius(this.state.radius);
  }

  async _loadFirst(about) {
    this.known = about.final ?? 0;
    if (about.draft && !about.draft.problem) {
      await this.load('draft', null, { baseOf: about.draft.base });
      this.known = about.draft.known ?? 0;
      this.say('info', 'Your unsaved work (' + when(about.draft.time) + ') was loaded.', [
        { title: 'Discard it', run: () => this.discardDraft() },
      ]);
    } else if (about.start) {
      await this.load(about.start.tag, about.start.version);
    } else {
      this._counted();
    }
    if (about.draft?.problem) {
      this.say('error', 'Your unsaved work cannot be loaded. ' + about.draft.problem + ' The next change of this label map replaces it.', [
        { title: 'Discard it', run: () => this.discardDraft() },
      ]);
    }
  }

  /** Shows why the case cannot be edited. Nothing is kept then, so that an empty label map cannot replace the person's draft. */
  _unopened(about, error) {
    this.store.set({ about: null });
    const discard = async () => {
      await ask('annotation/draft', { image: about.image }, { method: 'DELETE' });
      window.location.reload();
    };
    this.say('error', 'The label map cannot be loaded, so the case cannot be edited. ' + error.message, [
      { title: 'Try again', run: () => window.location.reload() },
      ...(about.draft ? [{ title: 'Discard my unsaved work', run: () => this.doing('Discarding …', discard) }] : []),
    ]);
  }

  /** The parameters of requests that keep a label map: its image, the version that it began from, and what its person has seen. */
  get query() {
    return { image: this.image, image_mark: this.mark || null, known: this.known, ...named(this.base) };
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
    const isDraft = tag === 'draft';
    const voxels = await this.voxelsOf(tag, version);
    const before = this._origin();
    const base = isDraft ? baseOf : { tag, version };
    const baseVoxels = !isDraft ? voxels : base ? await this.voxelsOf(base.tag, base.version) : new Uint8Array(this.volume.count);
    const after = { base, baseVoxels, known: tag === 'final' ? Math.max(this.known, version) : this.known };
    if (!this.state.unsaved) {
      this.drafting.kept = voxels; // a stored version is no work that must be kept, unless undoing it brings such work back
    }
    this._setOrigin(after);
    this.layer.write(voxels, undoable, undo => this._setOrigin(undo ? before : after));
    const { confidence, problem } = this.state.about.versions.find(one => one.tag === tag && one.version === version) || {};
    this.store.set({
      drafted: isDraft ? 'loaded' : '',
      organs: this.state.organs.map(organ => ({ ...organ, checked: false, confidence: confidence?.[organ.label] ?? null })),
    });
    this._counted();
    return problem || '';
  }

  /** Returns from what the work began. Undoing a load returns to it. */
  _origin() {
    return { base: this.base, baseVoxels: this.baseVoxels, known: this.known };
  }

  _setOrigin({ base, baseVoxels, known }) {
    Object.assign(this, { base, baseVoxels, known: Math.max(known, this._own) });
    this.store.set({ base });
  }

  /** Removes the draft and loads the version that it began from. */
  async discardDraft() {
    await this.drafting.settled();
    await ask('annotation/draft', { image: this.image }, { method: 'DELETE' });
    if (this.base) {
      await this.load(this.base.tag, this.base.version, { undoable: true });
    } else {
      this.layer.write(new Uint8Array(this.volume.count));
    }
    this.drafting.kept = this.layer.read();
    this.store.set({ drafted: '', message: null });
  }

  /**
   * Notes that a label map was signed off: the work now begins from that version. Returns whether it is the one on the screen; if not,
   * the later changes are kept as a draft.
   */
  async submitted(base, voxels) {
    this._own = base.version;
    this._setOrigin({ base: { tag: base.tag, version: base.version }, baseVoxels: voxels, known: base.version });
    this.drafting.kept = voxels;
    this.store.set({ drafted: '' });
    this._counted();
    await this.drafting.settled();
    return sameVoxels(this.layer.read(), voxels);
  }

  /** Reads the case again, after the server has stored something. */
  async refresh() {
    const about = await askJson('annotation/case', { image: this.image });
    this.mark ||= about.image_mark; // the server may have fetched a series of a PACS only now
    this.store.set({ about });
  }

  /** Chooses the organ that tools edit. It is unlocked while it is chosen. */
  choose(label) {
    this.activity?.choose(label);
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

  /** Runs a task with a note of what is going on; shows its error. An empty text: the task is too short for a note. */
  async doing(text, task) {
    const mine = { text };
    this._tasks.push(mine);
    this._showBusy();
    try {
      return await task();
    } catch (error) {
      if (error.name !== 'AbortError') {
        this.say('error', 'Not done. ' + error.message);
      }
      return undefined;
    } finally {
      this._tasks.splice(this._tasks.indexOf(mine), 1);
      this._showBusy();
    }
  }

  _showBusy() {
    this.store.set({ busy: this._tasks.map(({ text }) => text).filter(Boolean).join(' ') });
  }

  /** Blocks editing, or allows it again: what is drawn while a label map is signed off would not be part of it. */
  freeze(frozen) {
    this.store.set({ frozen });
    document.body.classList.toggle('annotation-frozen', frozen);
  }

  _changed() {
    clearTimeout(this._counting);
    this._counting = setTimeout(() => this._counted(), COUNT_MS);
    this.drafting.changed();
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

  /** Ends the session; work that waits to be kept is sent, and marks are removed. Its history is forgotten: undoing must not reach another case. */
  close() {
    this.closeQuestion?.();
    this.freeze(false);
    this.refining?.abort();
    this._endActivity?.();
    removeMarks(this.services, allMarks());
    if (this.state.about) {
      this.drafting.close();
    }
    const { DefaultHistoryMemo } = window.cornerstone.utilities.HistoryMemo;
    DefaultHistoryMemo.size = DefaultHistoryMemo.size; // empties it
    this.layer?.stop();
    clearTimeout(this._counting);
  }
}

const UNTOUCHED = { checked: false, confidence: null, ml: 0, added: 0, removed: 0 };

/** Returns a time of the server, in the notation of the worklist. */
export const when = time => fullTime(time) || 'an earlier time';
