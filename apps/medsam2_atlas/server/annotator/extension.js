/* spike */
export const PANEL = '@medsam2_atlas/extension-annotation.panelModule.annotation';
export function register(managers) { window.ours = managers; }
const host = { node: null };
function attach(node) { if (node) { node.textContent = 'OUR PANEL'; host.node = node; } }
function Panel() {
  return { $$typeof: Symbol.for('react.element'), type: 'div', key: null, ref: attach, props: { className: 'annotation-panel', style: {color: 'white'} }, _owner: null };
}
export function panels() { return [{ name: 'annotation', iconName: 'tab-segmentation', iconLabel: 'Annotation', label: 'Annotation', component: Panel }]; }
const pane = (orientation) => ({
  viewportOptions: { viewportId: orientation, toolGroupId: 'default', viewportType: 'volume', orientation, initialImageOptions: { preset: 'middle' },
    syncGroups: [{ type: 'voi', id: 'window', source: true, target: true, options: { syncColormap: true } }] },
  displaySets: [{ id: 'ct' }],
});
export function hangingProtocols() {
  return [{ name: 'annotation', protocol: {
    id: 'annotation', name: 'Annotation', locked: true, isPreset: true, availableTo: {}, editableBy: {}, protocolMatchingRules: [], imageLoadStrategy: 'nth', callbacks: {},
    displaySetSelectors: { ct: { seriesMatchingRules: [
      { weight: 10, attribute: 'Modality', constraint: { equals: { value: 'CT' } }, required: true },
      { weight: 1, attribute: 'isReconstructable', constraint: { equals: { value: true } }, required: true } ] } },
    stages: [{ name: 'three panes', viewportStructure: { layoutType: 'grid', properties: { rows: 2, columns: 3, layoutOptions: [
      { x: 0, y: 0, width: 2 / 3, height: 1 }, { x: 2 / 3, y: 0, width: 1 / 3, height: 0.5 }, { x: 2 / 3, y: 0.5, width: 1 / 3, height: 0.5 } ] } },
      viewports: ['axial', 'sagittal', 'coronal'].map(pane) }],
  } }];
}
export function commands() { return { definitions: {}, defaultContext: 'CORNERSTONE' }; }
export function mode() {
  return {
    id: '@medsam2_atlas/mode-annotation', routeName: 'annotate', displayName: 'Annotate', validationTags: { study: [], series: [] },
    isValidMode: ({ modalities }) => ({ valid: modalities.split('\\').includes('CT'), description: 'The study has no CT.' }),
    onModeEnter: ({ servicesManager, extensionManager }) => {
      const { toolGroupService, toolbarService } = servicesManager.services;
      const { toolNames, Enums } = extensionManager.getModuleEntry('@ohif/extension-cornerstone.utilityModule.tools').exports;
      const M = Enums.MouseBindings;
      const brush = (toolName, activeStrategy) => ({ toolName, parentTool: 'Brush', configuration: { activeStrategy, minRadius: 0.5, maxRadius: 99 } });
      toolGroupService.createToolGroupAndAddTools('default', {
        active: [ { toolName: toolNames.WindowLevel, bindings: [{ mouseButton: M.Primary }] }, { toolName: toolNames.Pan, bindings: [{ mouseButton: M.Auxiliary }] },
          { toolName: toolNames.Zoom, bindings: [{ mouseButton: M.Secondary }] }, { toolName: toolNames.StackScroll, bindings: [{ mouseButton: M.Wheel }] } ],
        passive: [ brush('CircularBrush', 'FILL_INSIDE_CIRCLE'), brush('CircularEraser', 'ERASE_INSIDE_CIRCLE') ], disabled: [],
      });
      toolbarService.register?.([]);
    },
    onModeExit: ({ servicesManager }) => {
      const { toolGroupService, syncGroupService, segmentationService, cornerstoneViewportService } = servicesManager.services;
      toolGroupService.destroy(); syncGroupService.destroy(); segmentationService.destroy(); cornerstoneViewportService.destroy();
    },
    routes: [{ path: 'annotate', layoutTemplate: () => ({ id: '@ohif/extension-default.layoutTemplateModule.viewerLayout', props: {
      leftPanels: [], rightPanels: [PANEL], rightPanelResizable: true,
      viewports: [{ namespace: '@ohif/extension-cornerstone.viewportModule.cornerstone', displaySetsToDisplay: ['@ohif/extension-default.sopClassHandlerModule.stack'] }],
    } }) }],
    extensions: { '@ohif/extension-default': '^3.0.0', '@ohif/extension-cornerstone': '^3.0.0', '@medsam2_atlas/extension-annotation': '^1.0.0' },
    hangingProtocol: 'annotation',
    sopClassHandlers: ['@ohif/extension-default.sopClassHandlerModule.stack'],
    toolbarButtons: [{ $reference: 'cornerstone.toolbarButtons' }],
    toolbarSections: [],
  };
}
