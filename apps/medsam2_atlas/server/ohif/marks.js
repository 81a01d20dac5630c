/* Boxes and points of an organ on axial slices, and the segmentation from them by MedSAM2.

   Marks are annotations of three tools of this extension. A mark belongs to the organ that is chosen in the panel of segments
   when it is drawn. Each request sends all marks of an organ, so that additional marks correct the result. */

import { ask, currentSegmentation, currentSeries } from './viewer.js';

export const BOX = 'MedSAM2Box';
export const INSIDE = 'MedSAM2Inside';
export const OUTSIDE = 'MedSAM2Outside';
const TOOLS = [BOX, INSIDE, OUTSIDE];
const COLOURS = { [BOX]: 'rgb(255, 220, 0)', [INSIDE]: 'rgb(0, 230, 0)', [OUTSIDE]: 'rgb(255, 60, 60)' };

/** Returns the organ that is chosen in the panel of segments. */
function currentOrgan(services) {
  const segments = Object.values(currentSegmentation(services).segments);
  const organ = segments.find(segment => segment.active) || segments[0];
  if (!organ) {
    throw new Error('There is no organ to mark. Add a segment with the name of an organ.');
  }
  return organ;
}

let registered = false;

/** Registers the tools once, and adds them to the viewports' tool groups. */
export function addTools(services) {
  const { RectangleROITool, ProbeTool, addTool, annotation, Enums } = window.cornerstoneTools;
  if (!registered) {
    registered = true;
    const named = (Tool, name) => Object.assign(class extends Tool {}, { toolName: name });
    addTool(named(RectangleROITool, BOX));
    addTool(named(ProbeTool, INSIDE));
    addTool(named(ProbeTool, OUTSIDE));
    window.cornerstone.eventTarget.addEventListener(Enums.Events.ANNOTATION_ADDED, ({ detail }) => {
      const mark = detail.annotation;
      if (TOOLS.includes(mark.metadata.toolName)) {
        mark.data.organ = currentOrgan(services).label;
        annotation.config.style.setAnnotationStyles(mark.annotationUID, { color: COLOURS[mark.metadata.toolName] });
      }
    });
  }
  for (const name of ['default', 'mpr']) {
    const group = services.toolGroupService.getToolGroup(name);
    for (const tool of group ? TOOLS.filter(one => !group.hasTool(one)) : []) {
      group.addTool(tool, { getTextLines: () => [] });
      group.setToolPassive(tool);
    }
  }
}

/** Returns all marks of an organ as voxel indices (x, y, z) of the volume. */
function marksOf(organ, volume) {
  const all = window.cornerstoneTools.annotation.state.getAllAnnotations();
  const voxel = point => volume.imageData.worldToIndex(point).map(Math.round);
  const drawn = tool => all
    .filter(mark => mark.metadata.toolName === tool && mark.data.organ === organ)
    .map(mark => mark.data.handles.points.map(voxel));
  return {
    boxes: drawn(BOX).map(corners => [corners[0], corners[3]]),
    foreground: drawn(INSIDE).map(([point]) => point),
    background: drawn(OUTSIDE).map(([point]) => point),
  };
}

/** Returns the voxels of an uncompressed NRRD file, one byte each. They follow the first empty line. */
function voxelsOf(nrrd) {
  const bytes = new Uint8Array(nrrd);
  const end = bytes.findIndex((byte, i) => byte === 10 && bytes[i + 1] === 10);
  return bytes.subarray(end + 2);
}

/** Segments the chosen organ from its marks and returns its name. Voxels of other organs are not changed. */
export async function segment(services) {
  const segmentation = currentSegmentation(services);
  const organ = currentOrgan(services);
  const volume = services.segmentationService.getLabelmapVolume(segmentation.segmentationId);
  const form = new FormData();
  const options = { label: organ.label, result_extension: '.nrrd', result_compress: false };
  const params = { ...options, ...marksOf(organ.label, volume) };
  form.append('params', JSON.stringify(params));
  const query = new URLSearchParams({ image: currentSeries(services), output: 'image' });
  const answer = await ask('infer/medsam2?' + query, { method: 'POST', body: form });
  const found = voxelsOf(await answer.arrayBuffer());
  const voxels = Uint8Array.from(volume.voxelManager.getCompleteScalarDataArray());
  if (found.length !== voxels.length) {
    throw new Error('The result has ' + found.length + ' voxels, but the volume on the screen has ' + voxels.length + '.');
  }
  for (let i = 0; i < voxels.length; i++) {
    if (voxels[i] === 0 || voxels[i] === organ.segmentIndex) {
      voxels[i] = found[i] ? organ.segmentIndex : 0;
    }
  }
  volume.voxelManager.setCompleteScalarDataArray(voxels);
  window.cornerstone.triggerEvent(
    window.cornerstone.eventTarget,
    window.cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED,
    { segmentationId: segmentation.segmentationId }
  );
  return organ.label;
}

/** Removes the marks of the chosen organ but not its voxels. Returns the organ's name. */
export function clear(services) {
  const { annotation } = window.cornerstoneTools;
  const organ = currentOrgan(services).label;
  for (const mark of annotation.state.getAllAnnotations()) {
    if (TOOLS.includes(mark.metadata.toolName) && mark.data.organ === organ) {
      annotation.state.removeAnnotation(mark.annotationUID);
    }
  }
  services.cornerstoneViewportService.getRenderingEngine().render();
  return organ;
}
