/* OHIF's configuration for this server, with an extension (extension.js). The extension lets annotators mark organs for MedSAM2
   and submit their segmentation. MONAI Label's panel can neither draw boxes nor submit a corrected label map.
   `medsam2AtlasConfig` is in ../viewer-config.js, which the server sends before this. */

(function () {
  'use strict';

  const { viewer, server, common } = medsam2AtlasConfig();
  let extension;

  // MONAI Label's panel uses port 8000 unless this cookie contains another address.
  document.cookie = 'MONAILABEL_SERVER_URL=' + server.href + '; path=' + viewer.pathname.slice(0, -1) + '; SameSite=Strict';

  window.config = {
    ...common,
    extensions: [
      {
        id: '@medsam2_atlas/extension-annotation',
        preRegistration: async () => { extension = await import(viewer.href + 'extension.js'); },
        getCommandsModule: managers => extension.commandsModule(managers),
        onModeEnter: managers => extension.onModeEnter(managers),
      },
    ],
    modes: [],
  };
})();
