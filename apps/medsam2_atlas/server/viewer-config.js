/* The part of OHIF's configuration that is the same for both viewers. The server sends it before their own part (app-config.js). */

/** Returns the addresses of viewer and server, and the common settings. */
function medsam2AtlasConfig() {
  'use strict';

  // A proxy may serve the app below a path of its host, so all addresses are relative to this file (SERVER/ohif/).
  const viewer = new URL('.', document.currentScript.src);
  const server = new URL('..', viewer);
  const dicomweb = server.pathname + 'proxy/dicom/';
  const common = {
    routerBasename: viewer.pathname,
    showStudyList: true,
    showWarningMessageForCrossOrigin: true,
    showCPUFallbackMessage: true,
    showLoadingIndicator: true,
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
  return { viewer, server, common };
}

