"""The server retries a case in smaller steps if the GPU's memory is not sufficient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from datastores.study_datastore import StudyDatastore
from fake_segmenters import FakeSegmenter, plain_models
from medsam2_atlas.base.memory import Ladder
from medsam2_atlas.imaging.hounsfield import HuRule
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import Options, Report, Segmentation
from tasks.predictions import Predictions


class Hungry(FakeSegmenter):
    """A segmenter that fits into memory only at one step of the ladder."""

    def __init__(self, fits: str) -> None:
        super().__init__("unet_3d", {"organs": list(range(1, 16))}, self._run, uses_network=True)
        self.fits, self.tried = fits, list[str]()

    def _run(self, volume: Volume, options: Options) -> Segmentation:
        self.tried.append(options.memory)
        if options.memory != self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return Segmentation(volume.with_array(np.zeros(volume.array.shape, np.uint8)), Report(organs=["liver"]))


def run(folder: Path, segmenter: Hungry) -> Segmentation:
    image = sitk.GetImageFromArray(np.arange(480, dtype=np.int16).reshape(6, 8, 10))
    sitk.WriteImage(image, str(folder / "a.nii.gz"))
    store, models = StudyDatastore(folder), plain_models(folder, HuRule("as-is"))
    models.__dict__["ladder"] = Ladder(torch.device("cuda:0"))
    models._segmenters["unet_3d"] = segmenter
    return Predictions(models, lambda: store).get("unet_3d", "a")[0]


@pytest.mark.parametrize(
    ("fits", "tried", "note"),
    [
        ("", [""], None),
        ("small", ["", "small"], "out of GPU memory as usual; done in smaller steps"),
        (
            "cpu",
            ["", "small", "smallest", "cpu"],
            "out of GPU memory as usual; out of GPU memory in smaller steps; out of GPU memory in the smallest steps; "
            "done on the processor",
        ),
    ],
)
def test_each_step_of_the_memory_ladder_is_tried_and_reported(
    tmp_path: Path, fits: str, tried: list[str], note: str | None
) -> None:
    model = Hungry(fits)
    result = run(tmp_path, model)
    assert model.tried == tried
    assert result.report.memory == note


def test_a_case_that_fits_on_no_device_fails(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run(tmp_path, Hungry("nowhere"))
