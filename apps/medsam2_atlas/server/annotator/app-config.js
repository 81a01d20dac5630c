/* OHIF's configuration for this server: one mode with one panel (mode.js, extension.js). OHIF's own modes are hidden.
   `medsam2AtlasConfig` is in ../viewer-config.js, which the server sends before this. */

(function () {
  'use strict';

  const { viewer, common } = medsam2AtlasConfig();
  const loaded = import(viewer.href + 'extension.js'); // before OHIF's scripts: it keeps a job from before a reload
  let extension;

  window.config = {
    ...common,
    extensions: [
      {
        id: '@medsam2_atlas/extension-annotation',
        preRegistration: async () => { extension = await loaded; },
        getPanelModule: () => extension.panels(),
        getHangingProtocolModule: () => extension.hangingProtocols(),
      },
    ],
    modes: [{ id: '@medsam2_atlas/mode-annotation', modeFactory: async () => (await loaded).mode() }],
    modesConfiguration: Object.fromEntries(
      ['longitudinal', 'basic', 'segmentation', 'tmtv', 'microscopy', 'preclinical-4d', 'ultrasound-pleura-bline']
        .map(name => ['@ohif/mode-' + name, { hide: { $set: true } }])
    ),
    customizationService: {},
    maxNumberOfWebWorkers: 3,
    investigationalUseDialog: { option: 'never' }, // the panel says so itself
  };
})();
