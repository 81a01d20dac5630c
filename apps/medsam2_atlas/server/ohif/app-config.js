/* OHIF's configuration for this server, with a small extension that lets people submit what they have segmented.

   MONAI Label's panel runs models but has no way to hand a corrected label map back. The extension adds a button "Submit
   label" to the toolbar, and OHIF's own panel of segments, with brushes, beside MONAI Label's. Voxels go to the server with
   the viewer's grid and the segments' names; the server puts them on the series' grid. A label that somebody else has saved
   meanwhile is not replaced unseen. */

(function () {
  'use strict';

  const SEGMENTS_PANEL = '@ohif/extension-cornerstone.panelModule.panelSegmentationWithTools';
  const BUTTON = 'SubmitLabel';

  /** The segmentation that is worked on in the active viewport, else the only one there is. */
  function currentSegmentation(services) {
    const { segmentationService, viewportGridService } = services;
    const active = segmentationService.getActiveSegmentation(viewportGridService.getActiveViewportId());
    return active || segmentationService.getSegmentations()[0];
  }

  /** The CT series that the active viewport shows. */
  function currentSeries(services) {
    const { viewportGridService, displaySetService } = services;
    const viewport = viewportGridService.getState().viewports.get(viewportGridService.getActiveViewportId());
    const shown = viewport.displaySetInstanceUIDs.map(uid => displaySetService.getDisplaySetByUID(uid));
    return (shown.find(set => set.Modality === 'CT') || shown[0]).SeriesInstanceUID;
  }

  /** The server's answer; an error with its own words where it says no. */
  async function ask(path, options) {
    const answer = await fetch(path, { credentials: 'same-origin', ...options });
    const body = await answer.json();
    if (!answer.ok) {
      throw Object.assign(new Error(body.error.message + ' ' + body.error.remedy), { status: answer.status });
    }
    return body;
  }

  /** Number of the newest version of a series' label; 0 where it has none. */
  async function newestVersion(series) {
    try {
      return (await ask('/datastore/label/info?tag=final&label=' + series)).version;
    } catch (error) {
      if (error.status === 404) {
        return 0;
      }
      throw error;
    }
  }

  const based = {}; // by series: the version that was the newest when the viewer first knew of the series

  async function submit(services) {
    const segmentation = currentSegmentation(services);
    if (!segmentation) {
      throw new Error('There is no segmentation yet: run a model, or draw.');
    }
    const series = currentSeries(services);
    const volume = services.segmentationService.getLabelmapVolume(segmentation.segmentationId);
    const names = Object.values(segmentation.segments).map(segment => ({ name: segment.label, idx: segment.segmentIndex }));
    const params = {
      label_info: names,
      from: 'OHIF',
      expected_version: based[series],
      volume: {
        dimensions: Array.from(volume.dimensions),
        spacing: Array.from(volume.spacing),
        origin: Array.from(volume.origin),
        direction: Array.from(volume.direction),
      },
    };
    const form = new FormData();
    form.append('params', JSON.stringify(params));
    form.append('label', new Blob([Uint8Array.from(volume.voxelManager.getCompleteScalarDataArray())]), 'label.bin');
    const saved = await ask('/datastore/label?tag=final&image=' + series, { method: 'PUT', body: form });
    based[series] = saved.version;
    return saved;
  }

  function commandsModule({ servicesManager }) {
    const services = servicesManager.services;

    async function submitLabel() {
      const notify = services.uiNotificationService;
      try {
        const saved = await submit(services);
        const message = 'Saved as version ' + saved.version + '.';
        notify.show({ title: 'Submit label', message, type: 'success', duration: 6000 });
      } catch (error) {
        notify.show({ title: 'Submit label', message: 'Not saved. ' + error.message, type: 'error', duration: 15000 });
      }
    }

    return {
      definitions: { submitLabel: { commandFn: submitLabel } },
      defaultContext: 'CORNERSTONE',
    };
  }

  /** Adds button and panel once the mode, which sets up its own after this, is there. */
  function whenModeIsThere({ servicesManager }) {
    const { toolbarService, panelService, displaySetService } = servicesManager.services;
    displaySetService.subscribe(displaySetService.EVENTS.DISPLAY_SETS_ADDED, ({ displaySetsAdded }) => {
      for (const set of displaySetsAdded.filter(added => added.Modality === 'CT')) {
        newestVersion(set.SeriesInstanceUID).then(
          version => { based[set.SeriesInstanceUID] = based[set.SeriesInstanceUID] ?? version; },
          () => undefined // without it, the newest version is replaced, as other viewers do
        );
      }
    });
    setTimeout(() => {
      toolbarService.addButtons([
        {
          id: BUTTON,
          uiType: 'ohif.radioGroup',
          props: {
            icon: 'icon-upload',
            label: 'Submit label',
            tooltip: 'Save the segmentation as this series\' final label',
            commands: 'submitLabel',
            evaluate: 'evaluate.action',
          },
        },
      ]);
      if (!(toolbarService.state.buttonSections.primary || []).includes(BUTTON)) {
        toolbarService.createButtonSection('primary', [BUTTON]); // which adds to what is there
      }
      const panels = panelService.getPanels('right').map(panel => panel.id);
      if (panels.length && !panels.includes(SEGMENTS_PANEL)) {
        panelService.addPanel('right', SEGMENTS_PANEL);
      }
    }, 500);
  }

  // MONAI Label's panel asks port 8000 unless a cookie says otherwise.
  document.cookie = 'MONAILABEL_SERVER_URL=' + window.location.origin + '/; path=/ohif; SameSite=Strict';

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
