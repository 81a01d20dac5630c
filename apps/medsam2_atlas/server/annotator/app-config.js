/* OHIF's configuration for this server: one mode with one panel (mode.js, extension.js). OHIF's own modes are hidden. */

(function () {
  'use strict';

  // A proxy may serve the app below a path of its host, so all addresses are relative to this file (SERVER/ohif/).
  const viewer = new URL('.', document.currentScript.src);
  const server = new URL('..', viewer);
  const dicomweb = server.pathname + 'proxy/dicom/';
  const loaded = import(viewer.href + 'extension.js'); // before OHIF's scripts: it keeps a job from before a reload
  let extension;

  window.config = {
    routerBasename: viewer.pathname,
    showStudyList: true,
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
    showWarningMessageForCrossOrigin: true,
    showCPUFallbackMessage: true,
    showLoadingIndicator: true,
    investigationalUseDialog: { option: 'never' }, // the panel says so itself
    strictZSpacingForVolumeViewport: true,
    useSharedArrayBuffer: 'FALSE',
    defaultDataSourceName: 'dicomweb',
    dataSources: [
      {
        namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
        sourceName: 'dicomweb',
        configuration: {
          friendlyName: 'medsam2_atlas',
          name: 'medsam2_atlas',
          wadoUriRoot: dicomweb + 'wado',
          qidoRoot: dicomweb + 'qido',
          wadoRoot: dicomweb + 'wado',
          qidoSupportsIncludeField: true,
          supportsReject: false,
          imageRendering: 'wadors',
          thumbnailRendering: 'wadors',
          enableStudyLazyLoad: false,
          supportsFuzzyMatching: true,
          supportsWildcard: true,
          dicomUploadEnabled: false,
          bulkDataURI: { enabled: true },
        },
      },
    ],
  };
})();
