"""What the server does where a GPU's memory does not suffice."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.base.memory import Ladder
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.segmenters.base import Segmentation
from medsam2_atlas.storage import WorkFolder
from tasks.predictions import Predictions


class Hungry:
    """A model that fits where it is told to make do with less."""

    def __init__(self, fits: str) -> None:
        self.labels, self.uses_network = {"liver": 6}, True
        self.fits, self.tried = fits, list[str]()

    def missing(self) -> str:
        return ""

    def provenance(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"organs": list(range(1, 16))}

    def segment(self, request: dict[str, Any]) -> Segmentation:
        self.tried.append(request["memory"])
        if request["memory"] != self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        volume = read_volume(request["image"])
        return Segmentation(volume.with_array(np.zeros(volume.array.shape, np.uint8)), {"organs": ["liver"]})


def run(folder: Path, model: Hungry) -> Segmentation:
    image = sitk.GetImageFromArray(np.arange(480, dtype=np.int16).reshape(6, 8, 10))
    sitk.WriteImage(image, str(folder / "a.nii.gz"))
    store = StudyDatastore(folder)
    models: Any = SimpleNamespace(work=WorkFolder.of(folder), busy=threading.Lock(), ladder=Ladder(torch.device("cuda:0")))
    predictions = Predictions(models, lambda: store)
    predictions.tasks["m"] = model
    return predictions.get("m", "a")[0]


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
def test_less_memory_is_tried_step_by_step_and_the_report_says_so(
    tmp_path: Path, fits: str, tried: list[str], note: str | None
) -> None:
    model = Hungry(fits)
    result = run(tmp_path, model)
    assert model.tried == tried
    assert result.report.get("memory") == note


def test_what_fits_nowhere_fails(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run(tmp_path, Hungry("nowhere"))
