/* What the extension needs of OHIF's services and of this server. */

/** The segmentation that is worked on in the active viewport, else the only one there is. */
export function currentSegmentation(services) {
  const { segmentationService, viewportGridService } = services;
  const active = segmentationService.getActiveSegmentation(viewportGridService.getActiveViewportId());
  const segmentation = active || segmentationService.getSegmentations()[0];
  if (!segmentation) {
    throw new Error('There is no segmentation yet: press the arrows beside "Server" in the MONAI Label panel.');
  }
  return segmentation;
}

/** The CT series that the active viewport shows; of a segmentation that was not loaded yet, the series that it belongs to. */
export function currentSeries(services) {
  const { viewportGridService, displaySetService } = services;
  const viewport = viewportGridService.getState().viewports.get(viewportGridService.getActiveViewportId());
  const shown = viewport.displaySetInstanceUIDs.map(uid => displaySetService.getDisplaySetByUID(uid));
  const set = shown.find(one => one.Modality === 'CT') || shown[0];
  const referenced = set.referencedDisplaySetInstanceUID;
  return (referenced ? displaySetService.getDisplaySetByUID(referenced) : set).SeriesInstanceUID;
}

const SERVER = new URL('..', import.meta.url).href; // a proxy may show it below a path of its host

/** The server's answer; `path` is below the server's address. An error with its own words where it says no. */
export async function ask(path, options) {
  const answer = await fetch(SERVER + path, { credentials: 'same-origin', ...options });
  if (!answer.ok) {
    const { error } = await answer.json();
    const { reason, organs = [] } = error;
    throw Object.assign(new Error(error.message + ' ' + error.remedy), { status: answer.status, reason, organs });
  }
  return answer;
}

/** Does something, and tells how it went: `task` gives the text for success. */
export async function tell(services, title, task) {
  const notify = services.uiNotificationService;
  try {
    notify.show({ title, message: await task(), type: 'success', duration: 6000 });
  } catch (error) {
    notify.show({ title, message: 'Not done. ' + error.message, type: 'error', duration: 15000 });
  }
}
