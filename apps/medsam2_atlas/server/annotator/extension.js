/* The extension: connects OHIF's life cycle to a session per study, and shows its panel. */

import { stayPresent } from './job.js';
import { followKeys } from './keys.js';
import { followMarks } from './marks.js';
import { modeOf } from './mode.js';
import { loadStyle, showPanel, showText } from './panel/panel.js';
import { hangingProtocols, setWindow } from './panes.js';
import { lassoed, marked, resumeModel } from './running.js';
import { Session } from './session.js';
import { jumpTo } from './volume.js';

export { hangingProtocols };

const WAIT_MS = 200;
const panel = { node: null, end: null };
const endPresence = stayPresent(); // OHIF and the CT take a while to load
let current = null; // the open study: its session, and functions that end it

/** Fills OHIF's panel as soon as both the panel and the session exist. */
function showCurrent() {
  panel.end?.();
  panel.end = null;
  if (panel.node && current?.session) {
    panel.end = showPanel(panel.node, current.session);
  } else if (panel.node) {
    showText(panel.node, current?.problem || 'Waiting for the CT …');
  }
}

/** A component of React without React's functions: an element of the type `div` whose node our own code fills. */
function Panel() {
  return {
    $$typeof: Symbol.for('react.element'),
    type: 'div',
    key: null,
    ref: setNode,
    props: { className: 'annotation-panel', 'data-cy': 'annotation-panel' },
    _owner: null,
  };
}

function setNode(node) {
  panel.node = node;
  showCurrent();
}

export function panels() {
  loadStyle();
  return [{ name: 'annotation', iconName: 'tab-segmentation', iconLabel: 'Annotation', label: 'Annotation', component: Panel }];
}

export const mode = () => modeOf(open, close);

function open({ servicesManager }) {
  const { services } = servicesManager;
  const opened = { session: null, problem: '', ends: [], closed: false };
  current = opened;
  begin(services, opened).catch(error => {
    console.error(error);
    opened.problem = 'The case cannot be opened. ' + error.message;
    if (opened.session) {
      opened.session.say('error', opened.problem);
    }
    showCurrent();
  });
}

async function begin(services, opened) {
  const displaySet = await shownCt(services, opened);
  if (opened.closed) {
    return;
  }
  const session = new Session(services, displaySet);
  opened.session = session;
  opened.ends = [
    followMarks(() => marked(session), lasso => lassoed(session, lasso)),
    followKeys(session),
    followHistory(session),
    warnBeforeLeaving(session),
    followPanes(services, session),
  ];
  showCurrent();
  setWindow(services, displaySet);
  await session.open();
  showLinkedSlice(services, session);
  if (session.state.about && !opened.closed) {
    resumeModel(session).finally(endPresence);
  }
}

/** Shows the slice that the page's address names, as links of the comparison do; slices are counted from 0. */
function showLinkedSlice(services, session) {
  const slice = new URLSearchParams(window.location.search).get('slice') || '';
  if (/^[0-9]{1,6}$/.test(slice) && Number(slice) < session.volume.size[2]) {
    jumpTo(services, session.volume, Number(slice));
  }
}

/** Returns the CT in the panes when they show it. */
async function shownCt(services, opened) {
  const { displaySetService, viewportGridService, cornerstoneViewportService } = services;
  while (!opened.closed) {
    for (const { displaySetInstanceUIDs = [], viewportId } of viewportGridService.getState().viewports.values()) {
      const sets = displaySetInstanceUIDs.map(uid => displaySetService.getDisplaySetByUID(uid));
      const ct = sets.find(set => set?.Modality === 'CT' && set.imageIds?.length);
      const viewport = ct && cornerstoneViewportService.getCornerstoneViewport(viewportId);
      if (viewport?.getImageData?.()) {
        return ct;
      }
    }
    await new Promise(resolve => setTimeout(resolve, WAIT_MS));
  }
  return null;
}

/** Shows in the panel whether something can be undone. */
function followHistory(session) {
  const { DefaultHistoryMemo } = window.cornerstone.utilities.HistoryMemo;
  const look = () => {
    const { canUndo, canRedo } = DefaultHistoryMemo;
    if (canUndo !== session.state.canUndo || canRedo !== session.state.canRedo) {
      session.store.set({ canUndo, canRedo });
    }
  };
  const timer = setInterval(look, WAIT_MS);
  return () => clearInterval(timer);
}

/** Makes the browser ask before the page is left, while work is not on the server yet. */
function warnBeforeLeaving(session) {
  const leaving = event => {
    const { drafted, unsaved } = session.state;
    if (unsaved && (session.drafting.waiting || drafted === 'pending' || drafted === 'failed')) {
      event.preventDefault();
    }
  };
  window.addEventListener('beforeunload', leaving);
  return () => window.removeEventListener('beforeunload', leaving);
}

/** Shows the label map in panes that are added. Activates the pane under the pointer: OHIF would use the first click only for that. */
function followPanes(services, session) {
  const { viewportGridService } = services;
  const { unsubscribe } = viewportGridService.subscribe(viewportGridService.EVENTS.VIEWPORTS_READY, () => session.layer?.show());
  const over = event => {
    const pane = event.target.closest?.('[data-viewportid]')?.dataset.viewportid;
    if (pane && !event.buttons && pane !== viewportGridService.getActiveViewportId()) {
      viewportGridService.setActiveViewportId(pane);
    }
  };
  document.addEventListener('pointerover', over);
  return () => {
    unsubscribe();
    document.removeEventListener('pointerover', over);
  };
}

function close() {
  if (current) {
    current.closed = true;
    current.ends.forEach(end => end());
    current.session?.close();
    current = null;
  }
  showCurrent();
}
