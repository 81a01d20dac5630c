/* OHIF's configuration for this server, with a small extension that lets people submit what they have segmented.

   MONAI Label's panel runs models but has no way to hand a corrected label map back. OHIF itself can make a DICOM SEG of a
   segmentation and STOW it. The extension puts both in reach: a button "Submit label" in the toolbar, and OHIF's own panel of
   segments, with brushes, beside MONAI Label's. The server takes the SEG in as the next version of the series' label. */

(function () {
  'use strict';

  const SEGMENTS_PANEL = '@ohif/extension-cornerstone.panelModule.panelSegmentationWithTools';
  const BUTTON = 'SubmitLabel';

  /** What the server says of an error: its JSON, or whatever there is. */
  function reason(error) {
    const request = error && error.request;
    try {
      const body = JSON.parse(request.responseText || new TextDecoder().decode(request.response));
      return body.error.message + ' ' + body.error.remedy;
    } catch (unreadable) {
      return (error && error.message) || String(error);
    }
  }

  /** The segmentation that is worked on in the active viewport, else the only one there is. */
  function currentSegmentation(services) {
    const { segmentationService, viewportGridService } = services;
    const active = segmentationService.getActiveSegmentation(viewportGridService.getActiveViewportId());
    return active || segmentationService.getSegmentations()[0];
  }

  function commandsModule({ servicesManager, commandsManager, extensionManager }) {
    const services = servicesManager.services;

    async function submitLabel() {
      const notify = services.uiNotificationService;
      const segmentation = currentSegmentation(services);
      if (!segmentation) {
        notify.show({ title: 'Submit label', message: 'There is no segmentation yet: run a model, or draw.', type: 'warning' });
        return;
      }
      try {
        const made = commandsManager.runCommand(
          'generateSegmentation',
          { segmentationId: segmentation.segmentationId, options: { SeriesDescription: 'final' } },
          'SEGMENTATION'
        );
        if (!made || !made.dataset) {
          throw new Error('The segmentation is empty, or its images are not loaded yet.');
        }
        await extensionManager.getActiveDataSource()[0].store.dicom(made.dataset);
        notify.show({ title: 'Submit label', message: 'The label is saved as final.', type: 'success', duration: 6000 });
      } catch (error) {
        notify.show({ title: 'Submit label', message: 'Not saved. ' + reason(error), type: 'error', duration: 15000 });
      }
    }

    return {
      definitions: { submitLabel: { commandFn: submitLabel } },
      defaultContext: 'CORNERSTONE',
    };
  }

  /** Adds button and panel once the mode, which sets up its own after this, is there. */
  function whenModeIsThere({ servicesManager }) {
    const { toolbarService, panelService } = servicesManager.services;
    setTimeout(() => {
      toolbarService.addButtons([
        {
          id: BUTTON,
          uiType: 'ohif.toolButton',
          props: {
            icon: 'action-export',
            label: 'Submit label',
            tooltip: 'Save the segmentation as this series\' final label',
            commands: [{ commandName: 'submitLabel', context: 'CORNERSTONE' }],
            evaluate: 'evaluate.action',
          },
        },
      ]);
      const shown = (toolbarService.state.buttonSections.primary || []).filter(id => id !== BUTTON);
      toolbarService.createButtonSection('primary', [...shown, BUTTON]);
      const panels = panelService.getPanels('right').map(panel => panel.id);
      if (panels.length && !panels.includes(SEGMENTS_PANEL)) {
        panelService.addPanel('right', SEGMENTS_PANEL);
      }
    }, 500);
  }

  window.config = {
    routerBasename: '/ohif/',
    showStudyList: true,
    extensions: [
      { id: '@medsam2_atlas/extension-submit', getCommandsModule: commandsModule, onModeEnter: whenModeIsThere },
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
