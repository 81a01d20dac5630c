/* The hanging protocol: a large axial pane, and a sagittal and a coronal one. */

import { GROUP } from './tools.js';

export const PROTOCOL = 'annotation';
const WINDOW = { windowWidth: 400, windowCenter: 40 }; // soft tissue

const pane = orientation => ({
  viewportOptions: {
    viewportId: orientation,
    toolGroupId: GROUP,
    viewportType: 'volume',
    orientation,
    initialImageOptions: { preset: 'middle' },
    syncGroups: [{ type: 'voi', id: 'window', source: true, target: true, options: { syncColormap: true } }],
  },
  displaySets: [{ id: 'volume' }],
});

const rule = (attribute, value, weight) => ({ weight, attribute, constraint: { equals: { value } }, required: true });
const ct = rule('Modality', 'CT', 10);
const place = (x, y, width, height) => ({ x, y, width, height });

const grid = (rows, columns, layoutOptions) => ({ layoutType: 'grid', properties: { rows, columns, layoutOptions } });

const protocol = {
  id: PROTOCOL,
  name: 'Annotation',
  locked: true,
  isPreset: true,
  availableTo: {},
  editableBy: {},
  protocolMatchingRules: [],
  imageLoadStrategy: 'nth',
  callbacks: {},
  displaySetSelectors: {
    volume: { seriesMatchingRules: [ct, rule('isReconstructable', true, 1)] },
    slices: { seriesMatchingRules: [ct] },
  },
  stages: [
    {
      name: 'three panes',
      stageActivation: { enabled: { minViewportsMatched: 3 } },
      viewportStructure: grid(2, 3, [place(0, 0, 2 / 3, 1), place(2 / 3, 0, 1 / 3, 0.5), place(2 / 3, 0.5, 1 / 3, 0.5)]),
      viewports: ['axial', 'sagittal', 'coronal'].map(pane),
    },
    {
      name: 'slices', // of a CT with missing slices, which cannot be shown in other directions
      stageActivation: { enabled: { minViewportsMatched: 1 } },
      viewportStructure: grid(1, 1, [place(0, 0, 1, 1)]),
      viewports: [{ viewportOptions: { viewportId: 'axial', toolGroupId: GROUP, viewportType: 'stack' }, displaySets: [{ id: 'slices' }] }],
    },
  ],
};

export const hangingProtocols = () => [{ name: PROTOCOL, protocol }];

/** Sets the window of soft tissue in all panes, if the CT names no window. */
export function setWindow(services, displaySet) {
  const { windowCenter } = window.cornerstone.metaData.get('voiLutModule', displaySet.imageIds[0]) || {};
  if (windowCenter?.length || typeof windowCenter === 'number') {
    return;
  }
  const lower = WINDOW.windowCenter - WINDOW.windowWidth / 2;
  for (const viewport of services.cornerstoneViewportService.getRenderingEngine().getViewports()) {
    viewport.setProperties({ voiRange: { lower, upper: lower + WINDOW.windowWidth } });
    viewport.render();
  }
}
