"""Strategies and their reports; only the reference strategies read the ground truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from medsam2_atlas.atlas import Atlas, ReferenceFiles
from medsam2_atlas.base.errors import AtlasError, InputError, WeightsError
from medsam2_atlas.cli import app
from medsam2_atlas.evaluation import dice_per_organ, mean_dice
from medsam2_atlas.imaging.volume import Geometry, Volume, read_labels, read_volume
from medsam2_atlas.medsam2 import Weights, find_checkpoint, load_weights
from medsam2_atlas.prompting import Jitter
from medsam2_atlas.registration import RegistrationCache
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.case import Case
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.segmenters.strategies import STRATEGIES, segment


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights(find_checkpoint())


@pytest.fixture(scope="module")
def short(short_files: ReferenceFiles) -> Volume:
    return read_volume(short_files.image)


@pytest.fixture(scope="module")
def short_truth(short_files: ReferenceFiles, short: Volume) -> Volume:
    return read_labels(short_files.label, short)


@pytest.fixture(scope="module")
def case(short: Volume, atlas: Atlas, weights: Weights, registrations: RegistrationCache) -> Case:
    """Returns one case for all strategies, as in the demo."""
    return Case(short, LoadedResources(atlas, weights, registrations=registrations))


def score(labels: Volume, truth: Volume) -> float:
    return mean_dice(dice_per_organ(labels.array, truth.array, range(1, 16)))


class Trap:
    """A ground truth that must not be read."""

    @property
    def array(self) -> np.ndarray:
        raise AssertionError("the truth was read")


@pytest.fixture
def trapped(case: Case) -> Iterator[Case]:
    """Yields the case with a ground truth that must not be read."""
    case.options = Options(truth=Trap())  # type: ignore[arg-type]
    yield case
    case.options = Options()


MIN_DICE = {"atlas": 0.55, "A": 0.5, "B": 0.5, "C": 0.5, "D": 0.55, "E": 0.55, "F": 0.6}


@pytest.mark.parametrize(("strategy", "min_dice"), MIN_DICE.items())
def test_each_strategy_segments_an_unseen_patient_without_the_ground_truth(
    strategy: str, min_dice: float, trapped: Case, short_truth: Volume
) -> None:
    case = trapped
    result = segment(case, strategy)
    assert result.labels.geometry == case.image.geometry
    assert score(result.labels, short_truth) > min_dice
    report = result.report.to_json()
    assert report["segmenter"] == strategy
    assert report["strategy"] == strategy
    assert report["uses_truth"] is False
    assert report["atlas"]["references"] == 3
    assert set(report["volumes_ml"]) == set(report["organs"])
    assert report["volumes_ml"]["liver"] == pytest.approx((result.labels.array == 6).sum() * 0.027, abs=0.01)
    json.dumps(report)
    if strategy == "atlas":
        assert report["weights"] is None
        assert "mark" not in report
    else:
        assert report["mark"] == "demo weights: synthetic phantoms only"
        assert len(report["weights"]["sha256"]) == 64
        boxes = {len(p["boxes"]) for p in report["prompts"]}
        assert max(boxes) == (1 if strategy == "A" else 3)
    assert bool(report["first_pass_prompts"]) == (strategy in {"C", "D", "E", "F"})


def test_true_boxes_are_better_than_registered_ones(case: Case, short_truth: Volume) -> None:
    case.options = Options(truth=short_truth)
    three = segment(case, "reference-3")
    assert three.report.uses_truth is True
    one = segment(case, "reference-1")
    case.options = Options()
    assert score(three.labels, short_truth) > 0.75
    assert score(one.labels, short_truth) > 0.6


def test_boxes_that_are_off_give_worse_results(case: Case, short_truth: Volume) -> None:
    organs = (2,)
    dice = []
    for jitter in (None, Jitter("shift", 8), Jitter("shift", 30)):
        case.options = Options(organs=organs, truth=short_truth, jitter=jitter)
        labels = segment(case, "reference-3").labels
        dice.append(mean_dice(dice_per_organ(labels.array, short_truth.array, organs)))
    case.options = Options()
    assert dice[0] > dice[1] > dice[2] + 0.1


def test_only_reference_strategies_read_the_ground_truth(trapped: Case) -> None:
    # Another test runs the other strategies with the same ground truth, which must not be read.
    reading = [name for name in STRATEGIES if name not in MIN_DICE]
    assert reading == ["reference-1", "reference-3"]
    for name in reading:
        with pytest.raises(AssertionError, match="the truth was read"):
            segment(trapped, name)


def test_only_the_requested_organs_are_segmented(
    short: Volume, atlas: Atlas, weights: Weights, registrations: RegistrationCache
) -> None:
    result = segment(Case(short, LoadedResources(atlas, weights, registrations=registrations), Options(organs=(6, 2))), "A")
    assert set(np.unique(result.labels.array)) == {0, 2, 6}
    assert set(result.report.organs) == {"right_kidney", "liver"}


def test_an_organ_outside_the_scan_is_reported_with_the_reason(target: Volume, atlas: Atlas) -> None:
    upper = slice(int(target.array.shape[0] * 0.55), None)
    start = target.geometry.to_world(np.array([0, 0, upper.start]))
    array = target.array[upper]
    grid = Geometry(array.shape[::-1], target.geometry.spacing, (start[0], start[1], start[2]), target.geometry.direction)
    result = segment(Case(Volume(array, grid, grid), LoadedResources(atlas)), "atlas")
    assert result.report.volumes_ml["bladder"] == 0
    assert result.report.volumes_ml["liver"] > 200


def test_missing_requirements_of_a_strategy_are_named(
    short: Volume, atlas: Atlas, weights: Weights, registrations: RegistrationCache
) -> None:
    with pytest.raises(AtlasError, match="atlas build"):
        segment(Case(short, LoadedResources(None, weights)), "D")
    with pytest.raises(WeightsError, match="checkpoint"):
        segment(Case(short, LoadedResources(atlas, registrations=registrations)), "A")
    with pytest.raises(InputError, match="--truth"):
        segment(Case(short, LoadedResources(atlas, weights)), "reference-3")
    with pytest.raises(InputError, match="not a strategy"):
        segment(Case(short, LoadedResources(atlas, weights)), "Z")


def test_the_command_writes_label_map_report_and_picture_and_its_prompts_can_be_propagated(
    target_files: ReferenceFiles, atlas_folder: Path, tmp_path: Path
) -> None:
    arguments = [
        "segment",
        str(target_files.image),
        "--atlas",
        str(atlas_folder),
        "--organs",
        "liver,spleen",
        "--segmenter",
        "B",
    ]
    outputs = ["-o", str(tmp_path / "l.nii.gz"), "--report", str(tmp_path / "r.json"), "--preview", str(tmp_path / "p.png")]
    done = CliRunner().invoke(app, [*arguments, *outputs], catch_exceptions=False)
    assert done.exit_code == 0
    image, label = (sitk.ReadImage(str(f)) for f in (target_files.image, tmp_path / "l.nii.gz"))
    assert label.GetSize() == image.GetSize()
    assert label.GetDirection() == image.GetDirection()
    assert label.GetOrigin() == pytest.approx(image.GetOrigin())
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((tmp_path / "r.json").read_text())
    propagated = [
        "propagate",
        str(target_files.image),
        "--prompts",
        str(tmp_path / "r.json"),
        "--logits",
        str(tmp_path / "o.npz"),
    ]
    assert CliRunner().invoke(app, propagated, catch_exceptions=False).exit_code == 0
    with np.load(tmp_path / "o.npz") as logits:
        assert set(logits.files) == {"1", "6"}
        for prompt in report["prompts"]:
            found = logits[str(prompt["label"])]
            assert found.dtype == np.float32
            assert len(found) == prompt["z_max"] - prompt["z_min"] + 1
            assert found.shape[1:] == sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")).shape[1:]
            assert (found > 0).any()
