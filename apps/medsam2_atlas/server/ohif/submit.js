/* Sends the label map on the screen to the server, which saves it as the next final version of the series.

   The request contains the voxels, the viewer's grid and the names of the segments. The server transfers the voxels to the grid
   of the series. It does not replace a label map that another user has saved meanwhile. A label map that is empty or loses
   organs is saved only after the annotator confirms it. */

import { ask, currentSegmentation, currentSeries } from './viewer.js';

const QUESTION = '[data-cy="viewport-notification"]'; // OHIF's dialog in a viewport

const based = {}; // by series: the newest version at the time when the viewer first showed the series

/** Returns the number of the newest version of a series' final label map; 0 if there is none. */
async function newestVersion(series) {
  try {
    return (await (await ask('datastore/label/info?tag=final&label=' + series)).json()).version;
  } catch (error) {
    if (error.status === 404) {
      return 0;
    }
    throw error;
  }
}

/** Notes the version from which the viewer starts. */
export function noteVersion(series) {
  newestVersion(series).then(
    version => { based[series] = based[series] ?? version; },
    () => undefined // without a noted version, submitting replaces the newest one, as in other viewers
  );
}

/** Describes the content of a label map: its organs with their volumes, the largest first. */
function contents(voxels, segments, spacing) {
  const counts = new Uint32Array(256);
  for (const value of voxels) {
    counts[value] += 1;
  }
  const millilitres = spacing.reduce((volume, side) => volume * side, 1) / 1000;
  const content = Object.values(segments)
    .map(({ label, segmentIndex }) => ({ name: words(label), count: counts[segmentIndex] }))
    .filter(organ => organ.count > 0)
    .sort((a, b) => b.count - a.count)
    .map(organ => organ.name + ' ' + rounded(organ.count * millilitres) + ' ml');
  return content.length ? content.join(', ') : 'an empty label map (0 voxels)';
}

const rounded = value => String(value >= 10 ? Math.round(value) : Number(value.toPrecision(2)));
const words = name => String(name).replaceAll('_', ' ');

/** Asks whether to save a label map that would lose organs; returns the answer. */
function confirmed(services, question) {
  const { uiViewportDialogService, viewportGridService } = services;
  return new Promise(resolve => {
    let waiting = true;
    const answer = value => {
      waiting = false;
      uiViewportDialogService.hide();
      resolve(value);
    };
    uiViewportDialogService.show({
      viewportId: viewportGridService.getActiveViewportId(),
      id: 'confirm-submit',
      type: 'warning',
      message: question,
      actions: [
        { id: 'dont-save', type: 'secondary', text: 'Do not save', value: false },
        { id: 'save-anyway', type: 'primary', text: 'Save anyway', value: true },
      ],
      onSubmit: answer,
      onOutsideClick: () => answer(false),
      onKeyPress: event => event.key === 'Escape' && answer(false),
    });
    setTimeout(() => {
      if (waiting && !document.querySelector(QUESTION)) {
        answer(window.confirm(question)); // the viewport has no room for OHIF's dialog
      }
    }, 1000);
  });
}

/** Sends a label map. `confirm` is always set, because the server treats a second request without it as a confirmation. */
async function send(series, params, voxels, confirm) {
  const form = new FormData();
  form.append('params', JSON.stringify(params));
  form.append('label', new Blob([voxels]), 'label.bin');
  const path = 'datastore/label?tag=final&image=' + series + '&confirm=' + confirm;
  return (await ask(path, { method: 'PUT', body: form })).json();
}

/** Saves the label map; asks first if organs would be lost. Returns the new version and its content in words. */
export async function submit(services) {
  const segmentation = currentSegmentation(services);
  const series = currentSeries(services);
  const volume = services.segmentationService.getLabelmapVolume(segmentation.segmentationId);
  const names = Object.values(segmentation.segments).map(segment => ({ name: segment.label, idx: segment.segmentIndex }));
  const voxels = Uint8Array.from(volume.voxelManager.getCompleteScalarDataArray());
  const spacing = Array.from(volume.spacing);
  const params = {
    label_info: names,
    from: 'OHIF',
    expected_version: based[series],
    volume: {
      dimensions: Array.from(volume.dimensions),
      spacing,
      origin: Array.from(volume.origin),
      direction: Array.from(volume.direction),
    },
  };
  const content = contents(voxels, segmentation.segments, spacing);
  services.uiNotificationService.show({ title: 'Submit label', message: 'Saving ' + content + '.', type: 'info', duration: 6000 });
  let saved;
  try {
    saved = await send(series, params, voxels, false);
  } catch (error) {
    if (error.reason !== 'confirm') {
      throw error;
    }
    const lost = error.organs.length ? ' The previous version also contains ' + error.organs.map(words).join(', ') + '.' : '';
    if (!(await confirmed(services, 'This saves ' + content + ' as final.' + lost + ' Save it anyway?'))) {
      throw new Error('Nothing was saved.');
    }
    saved = await send(series, params, voxels, true);
  }
  based[series] = saved.version;
  return saved.version + ': ' + content;
}
