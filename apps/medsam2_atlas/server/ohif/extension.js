/* The extension: toolbar buttons and their commands, and OHIF's panel of segments next to MONAI Label's panel. */

import { BRUSHES } from './brushes.js';
import { BOX, INSIDE, OUTSIDE, addTools, clear, segment } from './marks.js';
import { noteVersion, submit } from './submit.js';
import { runAndNotify } from './viewer.js';

const SEGMENTS_PANEL = '@ohif/extension-cornerstone.panelModule.panelSegmentationWithTools';
const ACTIVATE = { commandName: 'setToolActiveToolbar', commandOptions: { toolGroupIds: ['default', 'mpr'] } };

const button = (id, icon, label, tooltip, commands, evaluate) => ({
  id,
  uiType: 'ohif.radioGroup',
  props: { icon, label, tooltip, commands, evaluate },
});

const BUTTONS = [
  button(BOX, 'tool-rectangle', 'Box', 'Draw a box around the chosen organ', ACTIVATE, 'evaluate.cornerstoneTool'),
  button(INSIDE, 'icon-add', 'On the organ', 'Place a point on the chosen organ', ACTIVATE, 'evaluate.cornerstoneTool'),
  button(OUTSIDE, 'icon-close', 'Off the organ', 'Place a point outside the chosen organ', ACTIVATE, 'evaluate.cornerstoneTool'),
  button('SegmentMarked', 'icon-tool-shape', 'Segment', 'Segment the chosen organ from its boxes and points', 'segmentMarked', 'evaluate.action'),
  button('ClearMarks', 'icon-tool-eraser', 'Clear marks', 'Remove the boxes and points of the chosen organ', 'clearMarks', 'evaluate.action'),
  button('SubmitLabel', 'icon-upload', 'Submit label', 'Save the segmentation as the final label map of this series', 'submitLabel', 'evaluate.action'),
];

export function commandsModule({ servicesManager }) {
  const services = servicesManager.services;
  const named = (title, task) => ({ commandFn: () => runAndNotify(services, title, task) });
  return {
    definitions: {
      segmentMarked: named('MedSAM2', async () => 'Segmented: ' + (await segment(services)) + '.'),
      clearMarks: named('MedSAM2', async () => 'Marks removed: ' + clear(services) + '.'),
      submitLabel: named('Submit label', async () => 'Saved as version ' + (await submit(services)) + '.'),
    },
    defaultContext: 'CORNERSTONE',
  };
}

/** Adds buttons, tools and the panel after the mode has set up its own, which happens after this call. */
export function onModeEnter({ servicesManager }) {
  const services = servicesManager.services;
  const { toolbarService, panelService, displaySetService } = services;
  displaySetService.subscribe(displaySetService.EVENTS.DISPLAY_SETS_ADDED, ({ displaySetsAdded }) => {
    displaySetsAdded.filter(added => added.Modality === 'CT').forEach(set => noteVersion(set.SeriesInstanceUID));
  });
  setTimeout(() => {
    addTools(services);
    toolbarService.addButtons([...BUTTONS, ...BRUSHES]);
    const missing = BUTTONS.map(one => one.id).filter(id => !(toolbarService.state.buttonSections.primary || []).includes(id));
    if (missing.length) {
      toolbarService.createButtonSection('primary', missing); // adds to the existing buttons
    }
    const panels = panelService.getPanels('right').map(panel => panel.id);
    if (panels.length && !panels.includes(SEGMENTS_PANEL)) {
      panelService.addPanel('right', SEGMENTS_PANEL);
    }
  }, 500);
}
