/* OHIF's configuration for this server, with an extension (extension.js). The extension lets annotators mark organs for MedSAM2
   and submit their segmentation. MONAI Label's panel can neither draw boxes nor submit a corrected label map. */

(function () {
  'use strict';

  // A proxy may serve the app below a path of its host, so all addresses are relative to this file (SERVER/ohif/).
  const viewer = new URL('.', document.currentScript.src);
  const server = new URL('..', viewer);
  const dicomweb = server.pathname + 'proxy/dicom/';
  let extension;

  // MONAI Label's panel uses port 8000 unless this cookie contains another address.
  document.cookie = 'MONAILABEL_SERVER_URL=' + server.href + '; path=' + viewer.pathname.slice(0, -1) + '; SameSite=Strict';

  window.config = {
    routerBasename: viewer.pathname,
    showStudyList: true,
    extensions: [
      {
        id: '@medsam2_atlas/extension-annotation',
        preRegistration: async () => { extension = await import(viewer.href + 'extension.js'); },
        getCommandsModule: managers => extension.commandsModule(managers),
        onModeEnter: managers => extension.onModeEnter(managers),
      },
    ],
    modes: [],
    showWarningMessageForCrossOrigin: true,
    showCPUFallbackMessage: true,
    showLoadingIndicator: true,
    strictZSpacingForVolumeViewport: true,
    defaultDataSourceName: 'dicomweb',
    useSharedArrayBuffer: 'FALSE',
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
