"""MONAI bundles as segmenters: geometry, labels, provenance, and no lasting changes of the process."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigWorkflow

from blocks import PATIENT, labelled
from bundles import BONE_HU, LIVER_HU, inference_config, threshold_weights, tiny_bundle
from gpu_results import Gpu
from mask_dice import mask_dice
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.job import CancelledError
from medsam2_atlas.base.progress import reporting
from medsam2_atlas.base.stages import observing
from medsam2_atlas.imaging.volume import Volume, from_sitk, read_labels, read_volume
from medsam2_atlas.segmenters.base import Options, Segmenter
from medsam2_atlas.segmenters.bundle import bundle_labels
from medsam2_atlas.segmenters.bundle_folder import load_bundle
from medsam2_atlas.studies.models import Models
from stage_record import NETWORK, StageRecord

LIVER = 6
TURNED = {
    "as is": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "to the right and front": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "from the head down": (1, 0, 0, 0, 1, 0, 0, 0, -1),
    "sagittal": (0, 0, 1, 1, 0, 0, 0, -1, 0),
    "oblique": (0.96, -0.28, 0, 0.28, 0.96, 0, 0, 0, 1),
}


def ct(direction: tuple[float, ...] = TURNED["as is"], spacing: tuple[float, float, float] = (6.0, 6.0, 6.0)) -> sitk.Image:
    """Returns noise from -1000 to 1000 HU on a grid of 22 x 26 x 18 voxels (x, y, z)."""
    array = np.random.default_rng(0).uniform(-1000, 1000, (18, 26, 22)).astype(np.float32).round()
    array[np.isin(array, [LIVER_HU, BONE_HU])] = 0  # no voxel equals a threshold
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((-31.0, 17.0, 250.0))
    image.SetDirection(direction)
    return image


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    labelled(tmp_path_factory.mktemp("patient"), "a", PATIENT)
    return read_volume(next(tmp_path_factory.getbasetemp().glob("patient*/images/a.nii.gz")))


@pytest.fixture
def segmenter(tmp_path: Path) -> Callable[..., Segmenter]:
    """Returns a function that writes a bundle and returns its segmenter."""

    def make(name: str = "own", **parts: Any) -> Segmenter:
        folder = tiny_bundle(tmp_path / name, **parts)
        return Models({"device": "cpu", f"bundle:{name}": str(folder)}).segmenter(f"bundle:{name}")

    return make


def liver_of(volume: Volume) -> np.ndarray:
    return (volume.array > LIVER_HU) & (volume.array <= BONE_HU)


@pytest.mark.parametrize("name", TURNED)
def test_the_label_map_lies_voxel_by_voxel_on_the_cts_grid(name: str, segmenter: Callable[..., Segmenter]) -> None:
    spacing = (2.5, 1.5, 4.0)
    image = ct(TURNED[name], spacing)
    volume = from_sitk(image)
    config = inference_config([volume.geometry.spacing[i] for i in range(3)])
    found = segmenter(config=config).segment(volume).labels
    assert np.array_equal(found.array == LIVER, liver_of(volume))
    assert set(np.unique(found.array)) == {0, LIVER}
    restored = found.restored()
    inside = sitk.GetArrayFromImage(image)
    assert np.array_equal(sitk.GetArrayFromImage(restored) == LIVER, (inside > LIVER_HU) & (inside <= BONE_HU))
    assert restored.GetDirection() == image.GetDirection()


def test_the_label_map_of_a_resampling_bundle_is_on_the_cts_grid(patient: Volume, segmenter: Callable[..., Segmenter]) -> None:
    found = segmenter(config=inference_config((4.0, 5.0, 7.0))).segment(patient).labels
    assert found.geometry == patient.geometry
    assert mask_dice(found.array == LIVER, liver_of(patient)) > 0.9


@pytest.mark.parametrize("direction", ["to the right and front", "oblique"])
def test_the_result_equals_that_of_monais_command(direction: str, tmp_path: Path) -> None:
    (tmp_path / "cts").mkdir()
    file = tmp_path / "cts" / "a.nii.gz"
    smooth = sitk.SmoothingRecursiveGaussian(ct(TURNED[direction], (2.5, 1.5, 4.0)), 3.0)
    sitk.WriteImage(sitk.Cast(smooth * 8.0, sitk.sitkFloat32), str(file))
    # These weights give no probability near 0 or 1. Otherwise two labels could tie, and rounding would decide.
    folder = tiny_bundle(tmp_path / "bundle", config=inference_config((2.0, 2.0, 3.0)), weights=threshold_weights(20.0))
    workflow = ConfigWorkflow(
        str(folder / "configs" / "inference.json"),
        str(folder / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(folder),
        dataset_dir=str(file.parent),
        output_dir=str(tmp_path / "out"),
        initialize=["$@checkpointloader(@evaluator)"],
    )
    workflow.initialize()
    workflow.run()
    volume = read_volume(file)
    theirs = read_labels(tmp_path / "out" / "a_trans.nii.gz", volume).array == 1
    ours = bundle_labels(volume, load_bundle(folder)) == LIVER
    assert 100 < theirs.sum() < theirs.size / 2
    assert (ours != theirs).sum() <= (3 if direction == "oblique" else 0)  # MONAI reads an oblique grid with fewer digits


def test_a_label_map_without_inverse_transforms_is_resampled_to_the_grid(
    patient: Volume, segmenter: Callable[..., Segmenter]
) -> None:
    config = inference_config((4.0, 5.0, 7.0))
    config["postprocessing"]["transforms"].pop(1)
    config["preprocessing"]["transforms"].insert(3, {"_target_": "CropForegroundd", "keys": "image", "source_key": "image"})
    found = segmenter(config=config).segment(patient).labels
    assert mask_dice(found.array == LIVER, liver_of(patient)) > 0.85


@pytest.mark.parametrize("missing", ["inferer", "postprocessing"])
def test_an_inferer_and_a_postprocessing_may_be_missing(
    missing: str, patient: Volume, segmenter: Callable[..., Segmenter]
) -> None:
    config = inference_config()
    del config[missing]
    assert np.array_equal(segmenter(config=config).segment(patient).labels.array == LIVER, liver_of(patient))


def test_the_network_is_a_stage(patient: Volume, segmenter: Callable[..., Segmenter]) -> None:
    record = StageRecord()
    with observing(record):
        segmenter().segment(patient)
    assert record.changes == NETWORK


def test_windows_may_be_as_large_as_the_image(patient: Volume, segmenter: Callable[..., Segmenter]) -> None:
    config = inference_config()
    config["inferer"]["roi_size"] = [24, None, -1]
    assert np.array_equal(segmenter(config=config).segment(patient).labels.array == LIVER, liver_of(patient))


def test_masks_of_several_organs_without_a_background_become_a_label_map(
    patient: Volume, segmenter: Callable[..., Segmenter]
) -> None:
    config = inference_config()
    config["postprocessing"]["transforms"][0] = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
    config["postprocessing"]["transforms"][2] = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}
    channels = {"0": "spleen", "1": "liver", "2": "vertebrae"}
    weights = threshold_weights() | {"bias": threshold_weights()["bias"] - torch.tensor([5.0, 0.0, 0.0])}
    found = segmenter(config=config, channels=channels, weights=weights).segment(patient).labels.array
    assert np.array_equal(found == LIVER, patient.array > LIVER_HU)  # the first mask takes precedence in overlaps
    assert set(np.unique(found)) == {0, LIVER}


def test_only_requested_organs_that_the_bundle_segments_are_reported(
    patient: Volume, segmenter: Callable[..., Segmenter]
) -> None:
    made = segmenter()
    result = made.segment(patient)
    report = result.report.to_json()
    assert report["organs"] == ["liver"]
    assert report["segmenter"] == "bundle:own"
    assert report["volumes_ml"]["liver"] > 0
    assert report["weights"]["left_out"] == ["vertebrae"]
    assert report["weights"]["file"].endswith("own/models/model.pt")
    assert (report["device"], report["precision"], report["uses_truth"]) == ("cpu", "float32", False)
    assert made.describe()["known_organs"] == ["liver"]
    assert made.segment(patient, Options(organs=(1, LIVER))).report.organs == ["liver"]
    with pytest.raises(InputError, match="bundle:own: segments none of these organs: spleen, right_kidney"):
        made.segment(patient, Options(organs=(1, 2)))


def test_the_provenance_changes_with_each_file_that_affects_the_result_and_no_other(
    segmenter: Callable[..., Segmenter],
) -> None:
    made = segmenter()
    folder = Path(made.used_weights()["file"]).parents[1]
    before = made.provenance(Options())
    (folder / "docs" / "README.md").write_text("Other words.")
    (folder / "LICENSE").write_text("Apache")
    assert made.provenance(Options()) == before
    seen = [before]
    (folder / "organs.yaml").write_text("1: spleen")
    seen.append(made.provenance(Options()))
    config = folder / "configs" / "inference.json"
    config.write_text(config.read_text() + " ")
    seen.append(made.provenance(Options()))
    torch.save(threshold_weights(500.0), folder / "models" / "model.pt")
    seen.append(made.provenance(Options()))
    assert all(one not in seen[:i] for i, one in enumerate(seen))
    assert seen[-1]["weights"] != before["weights"]
    assert before["packages"]["torch"] == torch.__version__
    assert made.provenance(Options(organs=(6,))) not in seen


def test_a_run_changes_no_state_of_the_process(patient: Volume, segmenter: Callable[..., Segmenter]) -> None:
    def state() -> tuple[Any, ...]:
        flags = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()
        numbers = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        return list(sys.path), flags, numbers, torch.get_num_threads(), list(warnings.filters), sys.dont_write_bytecode

    made = segmenter()
    before, files = state(), sorted(Path(made._resources.folder(made.name)).rglob("*"))
    made.segment(patient)
    assert state() == before
    assert sorted(Path(made._resources.folder(made.name)).rglob("*")) == files, "nothing is written into the folder"


@pytest.mark.parametrize("reason", [CancelledError("job", "was cancelled."), KeyError("of the background")])
def test_a_job_can_be_stopped_between_two_windows(
    reason: Exception, patient: Volume, segmenter: Callable[..., Segmenter]
) -> None:
    shares: list[float] = []

    def report(stage: str, share: float, organ: int | None = None) -> None:
        assert stage == "bundle:own"
        shares.append(share)
        if len(shares) == 3:
            raise reason

    made = segmenter()
    with reporting(report), pytest.raises(type(reason)):
        made.segment(patient)
    assert shares == sorted(shares)
    assert shares[-1] < 1
    assert len(shares) == 3
    made.segment(patient)
    assert len(shares) == 3, "the run removes its hook, so later calls report nothing"


@pytest.mark.parametrize("memory", ["", "small", "smallest"])
@pytest.mark.parametrize("amp", [False, True])
def test_gpu_label_maps_match_those_of_the_cpu(memory: Any, amp: bool, patient: Volume, gpu: Gpu, tmp_path: Path) -> None:
    config = inference_config((6.0, 6.0, 6.0) if amp else (5.0, 5.0, 7.0))
    config["evaluator"]["amp"] = amp
    model = load_bundle(tiny_bundle(tmp_path / "own", config=config))

    if not memory and not gpu.real:
        pytest.skip("MONAI cannot create its tensors from pretended ones")

    def labels(device: torch.device) -> np.ndarray:
        return bundle_labels(patient, model.on(device), memory if device.type == "cuda" else "")

    gpu.assert_same_labels(*gpu.both(labels), rounded=amp)
