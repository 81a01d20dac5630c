"""A stand-in for a segmenter, for measuring and testing batches: it takes milliseconds, or as long as it is told to."""

from __future__ import annotations

import os
import time

import numpy as np

from medsam2_atlas.base.memory import ran_on
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Provenance, Segmentation, Segmenter, base_report

SOURCE = f"{__name__}:StandIn"
"""Names the class to `Job.source`."""
SECONDS_VARIABLE = "MEDSAM2_ATLAS_STAND_IN_SECONDS"
"""Environment variable: how long a case takes, in s."""


class StandIn(Segmenter):
    """Labels dense voxels as organ 6. It needs neither atlas nor weights, and is not in the registry."""

    uses_network = False

    def check(self) -> None:
        """Finds all requirements present."""

    def provenance(self, options: Options) -> Provenance:
        """Returns the common part of all provenances."""
        import torch

        return self._basis(options) | {"stand_in": 1} | ran_on(torch.device("cpu"), medsam2=False, unet=False)

    def segment(self, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        """Labels voxels above 0 HU of a CT (`[z, y, x]` in HU)."""
        time.sleep(float(os.environ.get(SECONDS_VARIABLE, "0")))
        labels = np.where(volume.array > 0, 6, 0).astype(np.uint8)
        report = base_report(self.name, volume, labels, options.labels).with_fields(seconds={"total": 0.0})
        return Segmentation(volume.with_array(labels), report)
