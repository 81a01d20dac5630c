/* Boxes and points of the chosen organ. They refine the organ's mask that is on the screen, with all edits by hand. */

import { packed, unpacked, ask } from './server.js';
import { LASSO, MARKS } from './tools.js';

const COLOURS = { [MARKS.box]: 'rgb(255, 220, 0)', [MARKS.inside]: 'rgb(0, 230, 0)', [MARKS.outside]: 'rgb(255, 60, 60)' };

/**
 * Calls a function with each new mark or lasso when it is complete. Returns a function that ends this.
 * @param {(mark: object) => void} onMark
 * @param {(lasso: object) => void} onLasso
 */
export function followMarks(onMark, onLasso) {
  const { Enums, annotation } = window.cornerstoneTools;
  const heard = ({ detail }) => {
    const mark = detail.annotation;
    if (mark.metadata.toolName in COLOURS) {
      annotation.config.style.setAnnotationStyles(mark.annotationUID, { color: COLOURS[mark.metadata.toolName] });
      onMark(mark);
    } else if (mark.metadata.toolName === LASSO) {
      setTimeout(() => onLasso(mark), 0); // the tool ends its own drawing after this event
    }
  };
  window.cornerstone.eventTarget.addEventListener(Enums.Events.ANNOTATION_COMPLETED, heard);
  return () => window.cornerstone.eventTarget.removeEventListener(Enums.Events.ANNOTATION_COMPLETED, heard);
}

/** Returns all marks on the screen. */
export function allMarks() {
  return window.cornerstoneTools.annotation.state.getAllAnnotations().filter(mark => mark.metadata.toolName in COLOURS);
}

/** Removes marks from the screen. */
export function removeMarks(services, marks) {
  marks.forEach(mark => window.cornerstoneTools.annotation.state.removeAnnotation(mark.annotationUID));
  services.cornerstoneViewportService.getRenderingEngine().render();
}

/**
 * Returns marks as voxel indices [x, y, z] for the server.
 * @throws {Error} a box was not drawn on an axial slice
 */
export function inVoxels(marks, volume) {
  const drawn = kind => marks
    .filter(mark => mark.metadata.toolName === MARKS[kind])
    .map(mark => mark.data.handles.points.map(point => volume.voxelAt(point)));
  const boxes = drawn('box').map(corners => [corners[0], corners[3]]);
  if (boxes.some(([one, other]) => one[2] !== other[2])) {
    throw new Error('A box must lie on a slice of the CT. Draw it in the axial pane.');
  }
  return { boxes, foreground: drawn('inside').map(([point]) => point), background: drawn('outside').map(([point]) => point) };
}

/**
 * Returns the label map with an organ refined by MedSAM2 from marks. Only voxels that MedSAM2 changes are changed. Voxels of locked
 * organs stay.
 * @param {{image: string, mark: string, label: number, marks: object, sent: Uint8Array, current: () => Uint8Array, locked: Set<number>}} request
 *   `sent`: the label map that the marks refer to; `current`: returns the label map when the answer arrives
 * @param {AbortSignal} signal cancels the request
 */
export async function refined({ image, mark, label, marks, sent, current, locked }, signal) {
  const form = new FormData();
  form.append('params', JSON.stringify(marks));
  form.append('mask', await packed(sent), 'mask.gz');
  const answer = await ask('annotation/refine', { image, image_mark: mark || null, label, model: 'medsam2', mode: 'exact' }, { method: 'POST', body: form, signal });
  const mask = await unpacked(answer, sent.length);
  const voxels = current();
  for (let i = 0; i < voxels.length; i++) {
    const was = sent[i] === label;
    if (mask[i] && !was && !locked.has(voxels[i])) {
      voxels[i] = label;
    } else if (!mask[i] && was && voxels[i] === label) {
      voxels[i] = 0;
    }
  }
  return voxels;
}
