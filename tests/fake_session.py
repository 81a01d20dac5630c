"""A session of an experiment whose U-Net is a fake, for tests of runs and reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fake_segmenters import FakeSegmenter
from medsam2_atlas.experiment.run import Session
from medsam2_atlas.experiment.setting import Setting
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import Options, Report, Segmentation
from medsam2_atlas.studies.models import Models


class FakeSession(Session):
    """A session whose U-Net calls liver what is brighter than 100 HU, in patients made of blocks.

    weights: part of the provenance. ran: names of the files that it has segmented. after: called in each segmentation.
    """

    def __init__(self, setting: Setting, weights: str = "a") -> None:
        super().__init__(setting)
        self.ran: list[str] = []
        self.after: Callable[[], None] = lambda: None
        self.segmenter = FakeSegmenter("unet_3d", {"weights": weights}, self._segment)

    def models(self, variant: Variant) -> Models:
        models = Models({"device": "cpu"})
        models._segmenters["unet_3d"] = self.segmenter
        return models

    def _segment(self, volume: Volume, options: Options) -> Segmentation:
        assert options.truth is None, "a segmenter that is no reference strategy never gets the ground truth"
        self.ran.append(Path(volume.source).name)
        self.after()
        labels = np.where((volume.array > 100) & (volume.array < 200), 6, 0).astype(np.uint8)
        report = Report(segmenter="unet_3d", organs=["liver", "bladder"], seconds={"total": 0.1}, mark="demo weights")
        return Segmentation(volume.with_array(labels), report)
