/* Hands the label map that is on the screen to the server, as the series' next final one.

   Voxels go there with the viewer's grid and the segments' names; the server puts them on the series' grid. A label that
   somebody else has saved meanwhile is not replaced unseen. */

import { ask, currentSegmentation, currentSeries } from './viewer.js';

const based = {}; // by series: the version that was the newest when the viewer first knew of the series

/** Number of the newest version of a series' label; 0 where it has none. */
async function newestVersion(series) {
  try {
    return (await (await ask('/datastore/label/info?tag=final&label=' + series)).json()).version;
  } catch (error) {
    if (error.status === 404) {
      return 0;
    }
    throw error;
  }
}

/** Notes which version the viewer starts from. */
export function seen(series) {
  newestVersion(series).then(
    version => { based[series] = based[series] ?? version; },
    () => undefined // without it, the newest version is replaced, as other viewers do
  );
}

/** Saves; gives the new version's number. */
export async function submit(services) {
  const segmentation = currentSegmentation(services);
  const series = currentSeries(services);
  const volume = services.segmentationService.getLabelmapVolume(segmentation.segmentationId);
  const names = Object.values(segmentation.segments).map(segment => ({ name: segment.label, idx: segment.segmentIndex }));
  const params = {
    label_info: names,
    from: 'OHIF',
    expected_version: based[series],
    volume: {
      dimensions: Array.from(volume.dimensions),
      spacing: Array.from(volume.spacing),
      origin: Array.from(volume.origin),
      direction: Array.from(volume.direction),
    },
  };
  const form = new FormData();
  form.append('params', JSON.stringify(params));
  form.append('label', new Blob([Uint8Array.from(volume.voxelManager.getCompleteScalarDataArray())]), 'label.bin');
  const answer = await ask('/datastore/label?tag=final&image=' + series, { method: 'PUT', body: form });
  based[series] = (await answer.json()).version;
  return based[series];
}
