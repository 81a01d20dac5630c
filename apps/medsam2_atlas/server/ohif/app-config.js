/* OHIF's configuration for this server, with an extension (extension.js) that lets people mark organs for MedSAM2 and submit
   what they have segmented: MONAI Label's panel can neither draw boxes nor hand a corrected label map back. */

(function () {
  'use strict';

  let extension;

  // MONAI Label's panel asks port 8000 unless a cookie says otherwise.
  document.cookie = 'MONAILABEL_SERVER_URL=' + window.location.origin + '/; path=/ohif; SameSite=Strict';

  window.config = {
    routerBasename: '/ohif/',
    showStudyList: true,
    extensions: [
      {
        id: '@medsam2_atlas/extension-annotation',
        preRegistration: async () => { extension = await import('/ohif/extension.js'); },
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
          wadoUriRoot: '/proxy/dicom/wado',
          qidoRoot: '/proxy/dicom/qido',
          wadoRoot: '/proxy/dicom/wado',
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
