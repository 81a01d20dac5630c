/* The mode `annotate`: three panes and one panel, without OHIF's measurements and other panels. */

import { PROTOCOL } from './panes.js';
import { createTools } from './tools.js';

const DEFAULT = '@ohif/extension-default';
const CORNERSTONE = '@ohif/extension-cornerstone';
export const PANEL = '@medsam2_atlas/extension-annotation.panelModule.annotation';

/**
 * Returns the mode.
 * @param {(managers: object) => void} onEnter called when a study is opened
 * @param {() => void} onExit called when it is closed
 */
export function modeOf(onEnter, onExit) {
  const images = DEFAULT + '.sopClassHandlerModule.stack';
  return {
    id: '@medsam2_atlas/mode-annotation',
    routeName: 'annotate',
    displayName: 'Annotate',
    validationTags: { study: [], series: [] },
    isValidMode: ({ modalities }) => ({ valid: modalities.split('\\').includes('CT'), description: 'The study contains no CT.' }),
    onModeEnter(managers) {
      createTools(managers);
      onEnter(managers);
    },
    onModeExit({ servicesManager }) {
      onExit();
      const { toolGroupService, syncGroupService, segmentationService, cornerstoneViewportService } = servicesManager.services;
      [toolGroupService, syncGroupService, segmentationService, cornerstoneViewportService].forEach(service => service.destroy());
    },
    routes: [
      {
        path: 'annotate',
        layoutTemplate: () => ({
          id: DEFAULT + '.layoutTemplateModule.viewerLayout',
          props: {
            leftPanels: [],
            rightPanels: [PANEL],
            rightPanelResizable: true,
            rightPanelInitialExpandedWidth: 340,
            viewports: [{ namespace: CORNERSTONE + '.viewportModule.cornerstone', displaySetsToDisplay: [images] }],
          },
        }),
      },
    ],
    extensions: { [DEFAULT]: '^3.0.0', [CORNERSTONE]: '^3.0.0' },
    hangingProtocol: PROTOCOL,
    sopClassHandlers: [images],
    toolbarButtons: [],
    toolbarSections: [],
    modeCustomizations: { 'ohif.hotkeyBindings': { $set: [] } },
  };
}
