"""`propagate --mask` refines a label map in a file; files that do not fit are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from omegaconf import DictConfig, OmegaConf
from typer.testing import CliRunner, Result

from legacy import seeded_state
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli import app
from medsam2_atlas.medsam2 import build_network

SHAPE = (8, 40, 40)
LIVER, SPLEEN = 6, 1


@pytest.fixture(scope="module")
def folder(narrow_config: DictConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a CT, a label map of two organs (one on every third slice), and small random weights."""
    import torch

    folder = tmp_path_factory.mktemp("propagate")
    hu, labels = np.full(SHAPE, 40, np.int16), np.zeros(SHAPE, np.uint8)
    hu[1:7, 10:30, 10:30] = 150
    labels[1:7, 10:30, 10:20] = SPLEEN
    labels[[1, 4, 6], 10:30, 22:30] = LIVER
    for name, array in (("ct", hu), ("label", labels)):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / f"{name}.nii.gz"))
    network = build_network(narrow_config)
    network.load_state_dict(seeded_state(narrow_config))
    torch.save({"model": network.state_dict()}, folder / "narrow.pt")
    OmegaConf.save(narrow_config, folder / "narrow.yaml")
    return folder


def propagate(folder: Path, *more: str) -> Result:
    weights = ["--checkpoint", str(folder / "narrow.pt"), "--config", str(folder / "narrow.yaml"), "--device", "cpu"]
    return CliRunner().invoke(app, ["propagate", str(folder / "ct.nii.gz"), "--logits", str(folder / "l.npz"), *weights, *more])


def marks_in(folder: Path, *entries: dict[str, object]) -> str:
    (folder / "marks.json").write_text(json.dumps(entries))
    return str(folder / "marks.json")


def test_without_prompts_complete_labels_stay_and_missing_slices_are_segmented(folder: Path) -> None:
    done = propagate(folder, "--mask", str(folder / "label.nii.gz"))
    assert done.exit_code == 0, done.output
    assert "labels 1, 6;" in done.output
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "label.nii.gz")))
    with np.load(folder / "l.npz") as found:
        assert set(found) == {"1", "6", "z_min_1", "z_min_6"}
        assert (int(found["z_min_1"]), int(found["z_min_6"])) == (1, 1)
        assert (found["1"] == np.where(labels[1:7] == SPLEEN, 10, -10)).all()
        liver = found["6"]
        assert liver.dtype == np.float32
        drawn = [0, 3, 5]
        assert (liver[drawn] == np.where(labels[1:7][drawn] == LIVER, 10, -10)).all()
        assert set(np.unique(np.abs(liver[[1, 2, 4]]))) - {10.0}


def test_marks_correct_labels_of_the_mask_and_boxes_segment_others(folder: Path) -> None:
    marks = marks_in(
        folder,
        {"label": SPLEEN, "z_max": 7, "points": [{"z": 4, "inside": [[22, 20]]}]},
        {"label": 3, "z_min": 2, "z_max": 3, "boxes": [{"z": 2, "box": [10, 10, 20, 20]}]},
    )
    done = propagate(folder, "--mask", str(folder / "label.nii.gz"), "--prompts", marks)
    assert done.exit_code == 0, done.output
    with np.load(folder / "l.npz") as found:
        assert found["3"].shape == (2, 40, 40)
        assert found["1"].shape[0] == 7
        assert found["1"][3, 20, 22] > 0
        assert (found["1"][0] == found["1"][1]).all()


def test_a_mask_on_another_grid_is_refused_by_name(folder: Path) -> None:
    image = sitk.GetImageFromArray(np.ones(SHAPE, np.uint8))
    image.SetSpacing((2.0, 1.0, 1.0))
    sitk.WriteImage(image, str(folder / "other.nii.gz"))
    error = propagate(folder, "--mask", str(folder / "other.nii.gz")).exception
    assert isinstance(error, InputError)
    assert "other.nii.gz: has a different grid from" in str(error)


def test_an_empty_mask_is_refused(folder: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros(SHAPE, np.uint8)), str(folder / "empty.nii.gz"))
    error = propagate(folder, "--mask", str(folder / "empty.nii.gz")).exception
    assert isinstance(error, InputError)
    assert "empty.nii.gz: is empty" in str(error)


def test_marks_outside_the_volume_are_refused_before_the_network_runs(folder: Path) -> None:
    marks = marks_in(folder, {"label": SPLEEN, "points": [{"z": 40, "inside": [[1, 1]]}]})
    error = propagate(folder, "--mask", str(folder / "label.nii.gz"), "--prompts", marks).exception
    assert isinstance(error, InputError)
    assert "outside the volume" in str(error)


def test_prompts_or_a_mask_are_needed(folder: Path) -> None:
    error = propagate(folder).exception
    assert isinstance(error, InputError)
    assert "neither prompts nor a mask" in str(error)


def test_the_mask_is_not_overwritten(folder: Path) -> None:
    (folder / "l2.npz").write_bytes(b"")
    error = CliRunner().invoke(
        app, ["propagate", str(folder / "ct.nii.gz"), "--mask", str(folder / "l2.npz"), "--logits", str(folder / "l2.npz")]
    )
    assert isinstance(error.exception, InputError)
