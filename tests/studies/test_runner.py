"""The runner returns a stored result without reading the CT's voxels, or computes, measures and stores a new one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fake_segmenters import FakeSegmenter, plain_models
from medsam2_atlas.base.stages import stage
from medsam2_atlas.imaging import decoding
from medsam2_atlas.imaging.hounsfield import HuRule, read_ct
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import Options, Report, Segmentation
from medsam2_atlas.storage import StudyFolder, StudyStore
from medsam2_atlas.studies import PredictionStore
from medsam2_atlas.studies.runner import Runner


@pytest.fixture
def image(tmp_path: Path) -> Path:
    picture = sitk.GetImageFromArray(np.arange(480, dtype=np.int16).reshape(6, 8, 10))
    picture.SetSpacing((2.0, 2.0, 5.0))
    sitk.WriteImage(picture, str(tmp_path / "patient.nii.gz"))
    return tmp_path / "patient.nii.gz"


@pytest.fixture
def runner(image: Path) -> Runner:
    folder = StudyFolder(image.parent)
    models = plain_models(image.parent, HuRule("as-is"))
    return Runner(models, lambda: PredictionStore(folder.work, StudyStore(folder.path)))


def liver(volume: Volume, options: Options) -> Segmentation:
    labels = (volume.array > 200).astype(np.uint8) * 6
    return Segmentation(volume.with_array(labels), Report(seconds={"total": 1.0}, organs=["liver"]))


def test_a_result_is_computed_once_with_its_energy_and_then_read_from_the_store(runner: Runner, image: Path) -> None:
    ran: list[Volume] = []

    def run(volume: Volume, options: Options) -> Segmentation:
        ran.append(volume)
        return liver(volume, options)

    segmenter = FakeSegmenter("unet_3d", {"weights": "a"}, run)
    first, again = (runner.get(segmenter, "patient", image) for _ in range(2))
    assert len(ran) == 1
    assert first.stored is not None
    assert first.segmentation.report.energy is not None
    assert "watt_hours" in first.segmentation.report.energy
    assert again.segmentation.report.from_cache
    assert np.array_equal(first.segmentation.labels.array, again.segmentation.labels.array)
    assert runner.stored(FakeSegmenter("unet_3d", {"weights": "b"}, run), "patient", image) is None


def test_reading_and_each_stage_of_a_segmenter_have_their_energy(runner: Runner, image: Path) -> None:
    def run(volume: Volume, options: Options) -> Segmentation:
        with stage("network"):
            return liver(volume, options)

    segmenter = FakeSegmenter("unet_3d", {"weights": "a"}, run)
    from_file = runner.once(segmenter, image).report.energy or {}
    assert set(from_file["stages"]) == {"other", "reading", "network"}
    assert from_file["stages"]["reading"]["watt_hours"] > 0
    from_memory = runner.once(segmenter, read_ct(image, HuRule("as-is"))).report.energy or {}
    assert set(from_memory["stages"]) == {"other", "network"}


def test_a_stored_result_is_checked_by_its_grid_without_the_voxels_of_the_ct(
    runner: Runner, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = FakeSegmenter("unet_3d", {"weights": "a"}, liver)
    runner.get(segmenter, "patient", image)
    tasks: list[str] = []
    decode = decoding.run_task

    def counted(task: str, *arguments: object, **named: object) -> object:
        tasks.append(task)
        return decode(task, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("medsam2_atlas.imaging.volume.run_task", counted)
    assert runner.get(segmenter, "patient", image).segmentation.report.from_cache
    assert sorted(tasks) == ["grid", "labels"]


def test_a_result_with_some_organs_does_not_replace_one_with_all(runner: Runner, image: Path) -> None:
    segmenter = FakeSegmenter("unet_3d", {"weights": "a"}, liver)
    assert runner.get(segmenter, "patient", image, Options(organs=(6,))).stored is None
    assert runner.stored(segmenter, "patient", image) is None


def test_a_result_is_not_stored_if_the_model_changes_during_the_run(runner: Runner, image: Path) -> None:
    def run(volume: Volume, options: Options) -> Segmentation:
        segmenter._made_of["weights"] = "b"
        return liver(volume, options)

    segmenter = FakeSegmenter("unet_3d", {"weights": "a"}, run)
    assert runner.get(segmenter, "patient", image).stored is None
    assert runner.stored(segmenter, "patient", image) is None
