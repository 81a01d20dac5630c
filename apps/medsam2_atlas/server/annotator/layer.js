/* A label map on top of the CT: the one that is edited, and the one that shows a comparison.

   OHIF keeps one image of labels per slice. A layer reads and writes the pixels of these images, so it does not depend on
   whether a pane shows slices or a volume. */

import { applyRuns, runsBetween } from './runs.js';

const LABELMAP = 'Labelmap';

/** @typedef {{label: number, title: string, colour: number[]}} Segment */

export class Layer {
  /**
   * @param services OHIF's services
   * @param displaySet the CT series
   * @param {import('./volume.js').Volume} volume its grid
   * @param {string} id identifier of the segmentation
   * @param {string} title name for people
   * @param {Segment[]} segments the labels
   */
  constructor(services, displaySet, volume, id, title, segments) {
    Object.assign(this, { services, displaySet, volume, id, title, segments });
    this._listeners = [];
    this._pixels = null;
    this._heard = ({ detail }) => detail.segmentationId === id && this._listeners.forEach(listener => listener());
    window.cornerstone.eventTarget.addEventListener(window.cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED, this._heard);
  }

  /** Creates the segmentation, empty, and shows it in all panes. */
  async create() {
    const { segmentationService } = this.services;
    const segments = Object.fromEntries(this.segments.map(({ label, title }, i) => [label, { label: title, active: i === 0 }]));
    await segmentationService.createLabelmapForDisplaySet(this.displaySet, { segmentationId: this.id, label: this.title, segments });
    const images = this._representation().imageIds.map(imageId => window.cornerstone.cache.getImage(imageId));
    const bySlice = new Map(images.map(image => [image.referencedImageId, image]));
    this._pixels = this.volume.imageIds.map(imageId => bySlice.get(imageId).voxelManager.getScalarData());
    await this.show();
  }

  /** Shows the layer in each pane that does not show it yet. */
  async show() {
    const { segmentationService, viewportGridService } = this.services;
    for (const pane of viewportGridService.getState().viewports.keys()) {
      if (!segmentationService.getSegmentationRepresentations(pane, { segmentationId: this.id }).length) {
        await segmentationService.addSegmentationRepresentation(pane, { segmentationId: this.id, type: LABELMAP });
      }
      if (segmentationService.getSegmentationRepresentations(pane, { segmentationId: this.id }).length) {
        for (const { label, colour } of this.segments) {
          segmentationService.setSegmentColor(pane, this.id, label, [...colour, 255]);
        }
      }
    }
  }

  /** Stops following changes. */
  stop() {
    window.cornerstone.eventTarget.removeEventListener(window.cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED, this._heard);
  }

  /** Removes the layer from the panes. */
  remove() {
    this.stop();
    this.services.segmentationService.remove(this.id);
  }

  /** Calls a function after each change of the voxels. */
  onChange(listener) {
    this._listeners.push(listener);
  }

  /** Returns a copy of the voxels. */
  read() {
    const voxels = new Uint8Array(this.volume.count);
    const size = this.volume.size[0] * this.volume.size[1];
    this._pixels.forEach((pixels, z) => voxels.set(pixels, z * size));
    return voxels;
  }

  /**
   * Replaces the voxels. Returns whether any voxel has changed.
   * @param {Uint8Array} voxels
   * @param {boolean} undoable whether the change can be undone
   * @param {(undo: boolean) => void} onRestore called when it is undone or done again
   */
  write(voxels, undoable = true, onRestore = () => {}) {
    const runs = runsBetween(this.read(), voxels);
    if (!runs.starts.length) {
      return false;
    }
    this._set(voxels);
    if (undoable) {
      window.cornerstone.utilities.HistoryMemo.DefaultHistoryMemo.push({
        id: crypto.randomUUID ? crypto.randomUUID() : String(Math.random()),
        operationType: 'labelmap',
        restoreMemo: undo => {
          const current = this.read();
          applyRuns(current, runs, undo !== false);
          onRestore(undo !== false);
          this._set(current);
        },
      });
    }
    return true;
  }

  /** Shows or hides a label in all panes. */
  setVisible(label, visible) {
    const { segmentationService, viewportGridService } = this.services;
    for (const pane of viewportGridService.getState().viewports.keys()) {
      segmentationService.setSegmentVisibility(pane, this.id, label, visible);
    }
  }

  /**
   * Locks labels: tools of other labels do not change them.
   *
   * Where a tool meets a locked label, Cornerstone would also move the edited label into a map of its own, so that both overlap. It
   * looks for locked labels among those that are bound to the map of the edited one. Locked labels are therefore bound to a map
   * that does not exist: they stay in the only map, and nothing is moved.
   * @param {Set<number>} locked
   */
  setLocked(locked) {
    for (const { label } of this.segments) {
      this.services.segmentationService.setSegmentLocked(this.id, label, locked.has(label));
    }
    const representation = this._representation();
    const map = representation.primaryLabelmapId || this.id + '-storage-0';
    representation.segmentBindings = Object.fromEntries(
      this.segments.map(({ label }) => [label, { labelmapId: locked.has(label) ? 'locked' : map, labelValue: label }])
    );
  }

  /** Makes the layer, and a label of it, the one that tools edit in all panes. */
  edit(label) {
    const { segmentationService, viewportGridService } = this.services;
    for (const pane of viewportGridService.getState().viewports.keys()) {
      segmentationService.setActiveSegmentation(pane, this.id);
    }
    segmentationService.setActiveSegment(this.id, label);
  }

  _representation() {
    return window.cornerstoneTools.segmentation.state.getSegmentation(this.id).representationData[LABELMAP];
  }

  _set(voxels) {
    const size = this.volume.size[0] * this.volume.size[1];
    this._pixels.forEach((pixels, z) => pixels.set(voxels.subarray(z * size, (z + 1) * size)));
    const { triggerSegmentationDataModified } = window.cornerstoneTools.segmentation.triggerSegmentationEvents;
    triggerSegmentationDataModified(this.id);
  }
}
