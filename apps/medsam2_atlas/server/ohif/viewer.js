/* The extension's access to OHIF's services and to this server. */

/** Returns the segmentation of the active viewport, or else the first one. */
export function currentSegmentation(services) {
  const { segmentationService, viewportGridService } = services;
  const active = segmentationService.getActiveSegmentation(viewportGridService.getActiveViewportId());
  const segmentation = active || segmentationService.getSegmentations()[0];
  if (!segmentation) {
    throw new Error('There is no segmentation yet. Press the arrows next to "Server" in the MONAI Label panel.');
  }
  return segmentation;
}

/** Returns the CT series in the active viewport, or else the series to which the segmentation there refers. */
export function currentSeries(services) {
  const { viewportGridService, displaySetService } = services;
  const viewport = viewportGridService.getState().viewports.get(viewportGridService.getActiveViewportId());
  const shown = viewport.displaySetInstanceUIDs.map(uid => displaySetService.getDisplaySetByUID(uid));
  const set = shown.find(one => one.Modality === 'CT') || shown[0];
  const referenced = set.referencedDisplaySetInstanceUID;
  return (referenced ? displaySetService.getDisplaySetByUID(referenced) : set).SeriesInstanceUID;
}

const SERVER = new URL('..', import.meta.url).href; // a proxy may serve it below a path of its host

/** Returns the server's answer for a path below its address. Throws an error with the server's message if it refuses. */
export async function ask(path, options) {
  const answer = await fetch(SERVER + path, { credentials: 'same-origin', ...options });
  if (!answer.ok) {
    const { error } = await answer.json();
    const { reason, organs = [] } = error;
    throw Object.assign(new Error(error.message + ' ' + error.remedy), { status: answer.status, reason, organs });
  }
  return answer;
}

/** Runs a task and shows a notification: the text that the task returns, or its error. */
export async function runAndNotify(services, title, task) {
  const notify = services.uiNotificationService;
  try {
    notify.show({ title, message: await task(), type: 'success', duration: 6000 });
  } catch (error) {
    notify.show({ title, message: 'Not done. ' + error.message, type: 'error', duration: 15000 });
  }
}
