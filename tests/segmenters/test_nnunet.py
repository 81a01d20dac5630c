"""A trained nnU-Net as a segmenter: its label map equals nnU-Net's own, on the CT's grid, in any orientation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunet_folders import THRESHOLDS, by_thresholds, checkpoint, dataset, plans, seeded, write_folder

from gpu_results import Gpu
from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.errors import InputError, WeightsError
from medsam2_atlas.base.progress import reporting
from medsam2_atlas.base.stages import observing
from medsam2_atlas.imaging.volume import Geometry, Volume, from_sitk, read_volume, to_sitk, write_volume
from medsam2_atlas.segmenters.base import Options, Segmenter
from medsam2_atlas.studies.models import Models
from stage_record import NETWORK, StageRecord

pytest.importorskip("nnunetv2")

ANGLE = np.radians(20)
TILT = np.array([[1, 0, 0], [0, np.cos(ANGLE), -np.sin(ANGLE)], [0, np.sin(ANGLE), np.cos(ANGLE)]])


def segmenter(folder: Path, **conf: str) -> Segmenter:
    return Models({"nnunet:tiny": str(folder), "device": "cpu"} | conf).segmenter("nnunet:tiny")


def ct(filed: str = "LPS", spacing: tuple[float, float, float] = (6.0, 6.0, 6.0), tilted: bool = False) -> Volume:
    """Returns noise of four kinds of tissue, stored in the orientation `filed`."""
    array = np.random.default_rng(0).choice([-900, 0, 70, 150, 500], size=(14, 21, 25)).astype(np.float32)
    array[:, :, :2] = 0  # nnU-Net crops these columns
    direction = TILT.ravel().tolist() if tilted else np.eye(3).ravel().tolist()
    grid = Geometry((25, 21, 14), spacing, (-31.0, 12.0, 400.0), tuple(direction))
    return from_sitk(sitk.DICOMOrient(to_sitk(array, grid), filed), "ct")


def expected(hu: np.ndarray) -> np.ndarray:
    """Returns the expected labels of `by_thresholds`: liver and left kidney; the femur is excluded."""
    first, second, third = THRESHOLDS
    return np.where(hu > third, 0, np.where(hu > second, 3, np.where(hu > first, 6, 0)))


@pytest.fixture(scope="module")
def thresholds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("nnunet") / "tiny", folds={"0": checkpoint(by_thresholds(plans()))})


def test_a_name_outside_of_the_network_packages_is_not_called(tmp_path: Path) -> None:
    sign, about = tmp_path / "the-code-has-run", plans()
    weights = by_thresholds(about)
    about["configurations"]["tiny"]["architecture"]["arch_kwargs"] |= {
        "nonlin": "nnunetv2.configuration.os.system",
        "nonlin_kwargs": {"command": f"touch {sign}"},
    }
    folder = write_folder(tmp_path / "tiny", about, folds={"0": checkpoint(weights)})
    with pytest.raises(InputError, match="not part of a network"):
        segmenter(folder).segment(ct())
    assert not sign.exists()


@pytest.mark.parametrize("tilted", [False, True])
@pytest.mark.parametrize("filed", ["LPS", "RAS", "PIR"])
def test_labels_are_at_the_positions_of_their_voxels(thresholds: Path, filed: str, tilted: bool) -> None:
    volume = ct(filed, tilted=tilted)
    found = segmenter(thresholds).segment(volume).labels
    assert np.array_equal(found.array, expected(volume.array))
    assert found.array.dtype == np.uint8
    assert (found.geometry, found.file_geometry) == (volume.geometry, volume.file_geometry)


def test_the_report_names_model_device_and_labels_that_are_left_out(thresholds: Path) -> None:
    report = segmenter(thresholds).segment(ct(), Options(organs=(6,))).report
    content = report.to_json()
    assert content["segmenter"] == content["strategy"] == "nnunet:tiny"
    assert content["organs"] == ["liver"]
    assert (content["device"], content["uses_truth"], content["precision"]) == ("cpu", False, "float32")
    weights = content["weights"]
    assert weights["file"] == str(thresholds)
    assert (weights["configuration"], weights["folds"], weights["trainer"]) == ("tiny", ["fold_0"], "nnUNetTrainer")
    assert (weights["known_organs"], weights["left_out"]) == (["left_kidney", "liver"], ["femur"])
    assert json.loads(json.dumps(content)) == content


def test_organs_that_were_not_requested_are_dropped(thresholds: Path) -> None:
    found = segmenter(thresholds).segment(ct(), Options(organs=(3, 8))).labels.array
    assert set(np.unique(found)) == {0, 3}


def by_nnunet(folder: Path, file: Path, reader: str, *, mirrored: bool = False) -> np.ndarray:
    """Returns nnU-Net's own label map of a file, in the file's axis order."""
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=mirrored, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), None)
    io = recursive_find_reader_writer_by_name(reader)()
    image, properties = io.read_images([str(file)])
    found = predictor.predict_single_npy_array(image, properties)
    io.write_seg(found, str(file.with_name("seg.nii.gz")), properties)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file.with_name("seg.nii.gz"))))


def ours(folder: Path, file: Path, **options: Any) -> np.ndarray:
    found = segmenter(folder).segment(read_volume(file), Options(**options)).labels
    return sitk.GetArrayFromImage(found.restored())


@pytest.mark.parametrize(
    ("about", "options"),
    [
        pytest.param(plans(), {}, id="same spacing"),
        pytest.param(plans(spacing=(7.0, 5.0, 5.0)), {}, id="resampled"),
        pytest.param(plans(spacing=(7.0, 5.0, 5.0)), {"augment": True}, id="mirrored"),
        pytest.param(plans(spacing=(20.0, 4.0, 4.0)), {}, id="thick slices"),
        pytest.param(plans(2, spacing=(7.0, 5.0, 5.0)), {}, id="2d"),
        pytest.param(plans(transpose_forward=[2, 0, 1], transpose_backward=[1, 2, 0]), {}, id="transposed"),
        pytest.param(plans(image_reader_writer="SimpleITKIOWithReorient"), {}, id="reoriented"),
        pytest.param(plans(image_reader_writer="NibabelIOWithReorient"), {}, id="reoriented by nibabel"),
    ],
)
def test_label_maps_equal_those_of_nnunet(tmp_path: Path, about: dict[str, Any], options: dict[str, Any]) -> None:
    organs = {0: 0, 1: 6, 2: 3, 3: 0}
    folds = {str(seed): checkpoint(seeded(about, seed=seed)) for seed in range(2)}
    folder = write_folder(tmp_path / "model", about, folds=folds)
    file = tmp_path / "ct.nii.gz"
    write_volume(ct("PIL", (6.0, 5.0, 9.0), tilted=True), file)
    theirs = by_nnunet(folder, file, about["image_reader_writer"], mirrored=options.get("augment", False))
    assert len(np.unique(theirs)) > 2
    assert np.array_equal(ours(folder, file, **options), np.vectorize(organs.__getitem__)(theirs))


def test_regions_equal_those_of_nnunet(tmp_path: Path) -> None:
    about = plans(spacing=(7.0, 5.0, 5.0))
    data = dataset(labels={"background": 0, "kidneys": (1, 2), "left kidney": 2, "liver": 3}, regions_class_order=[1, 2, 3])
    folder = write_folder(tmp_path / "model", about, data, {"0": checkpoint(seeded(about, 3))})
    (folder / "organs.yaml").write_text("{1: right_kidney, 2: left_kidney, 3: liver}")
    file = tmp_path / "ct.nii.gz"
    write_volume(ct(), file)
    theirs = by_nnunet(folder, file, "SimpleITKIO")
    assert len(np.unique(theirs)) > 2
    assert np.array_equal(ours(folder, file), np.vectorize({0: 0, 1: 2, 2: 3, 3: 6}.__getitem__)(theirs))


def test_a_configured_orientation_applies_to_all_files(tmp_path: Path) -> None:
    about = plans()
    folder = write_folder(tmp_path / "model", about, folds={"0": checkpoint(seeded(about))})

    def labels(filed: str) -> np.ndarray:
        return segmenter(folder).segment(ct(filed)).labels.array

    assert not np.array_equal(labels("RAS"), labels("LPS"))  # as nnU-Net does
    (folder / "nnunet.yaml").write_text("orientation: RAS")
    assert np.array_equal(labels("LPS"), labels("RAS"))
    assert segmenter(folder).describe()["orientation"] == "RAS"


def test_only_the_chosen_folds_are_used(tmp_path: Path) -> None:
    about = plans()
    folds = {name: checkpoint(seeded(about, seed=seed)) for seed, name in enumerate(("0", "1", "all"))}
    folder = write_folder(tmp_path / "model", about, folds=folds)
    both = segmenter(folder).segment(ct())
    assert both.report.to_json()["weights"]["folds"] == ["fold_0", "fold_1"]
    (folder / "nnunet.yaml").write_text("folds: [1]")
    one = segmenter(folder).segment(ct())
    alone = write_folder(tmp_path / "alone", about, folds={"all": folds["1"]})
    assert np.array_equal(one.labels.array, segmenter(alone).segment(ct()).labels.array)
    assert not np.array_equal(one.labels.array, both.labels.array)


def test_smaller_steps_do_not_change_the_label_map(thresholds: Path) -> None:
    tiny = segmenter(thresholds)
    assert np.array_equal(tiny.segment(ct(), Options(memory="small")).labels.array, tiny.segment(ct()).labels.array)


@pytest.mark.parametrize("memory", ["", "small", "smallest"])
def test_gpu_label_maps_match_those_of_the_cpu(tmp_path: Path, gpu: Gpu, memory: Memory) -> None:
    folder = tmp_path / "two folds"
    folds = {name: checkpoint(by_thresholds(plans())) for name in ("0", "1")}
    write_folder(folder, folds=folds)

    def labels(device: torch.device) -> np.ndarray:
        tiny = segmenter(folder, device=str(device))
        found = tiny.segment(ct(), Options(memory=memory if device.type == "cuda" else ""))
        assert str(found.report.device).startswith(device.type)
        assert found.report.precision == ("float16" if device.type == "cuda" else "float32")
        return found.labels.array

    gpu.assert_same_labels(*gpu.both(labels), rounded=True)


def test_a_run_changes_no_state_of_the_process(thresholds: Path) -> None:
    state, environment, threads = torch.random.get_rng_state(), dict(os.environ), torch.get_num_threads()
    segmenter(thresholds).segment(ct())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert dict(os.environ) == environment
    assert torch.get_num_threads() == threads


def test_the_network_is_a_stage(thresholds: Path) -> None:
    record = StageRecord()
    with observing(record):
        segmenter(thresholds).segment(ct())
    assert record.changes == NETWORK


class Stop(Exception):
    """Raised by the progress callback."""


def test_progress_is_reported_and_a_job_stops_between_windows(thresholds: Path) -> None:
    shares: list[float] = []
    with reporting(lambda stage, share, organ=None: shares.append(share)):
        segmenter(thresholds).segment(ct())
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert len(shares) > 8

    def stop(stage: str, share: float, organ: int | None = None) -> None:
        if share > 0.3:
            raise Stop

    with reporting(stop), pytest.raises(Stop):
        segmenter(thresholds).segment(ct())


def test_a_changed_file_changes_the_provenance_and_is_used_at_once(tmp_path: Path, thresholds: Path) -> None:
    folder = write_folder(tmp_path / "model", folds={"0": checkpoint(by_thresholds(plans()))})
    tiny = segmenter(folder)
    before, version = tiny.provenance(Options()), tiny.version()
    assert before == segmenter(folder).provenance(Options())
    assert before["packages"]["nnunetv2"]
    assert set(before["files"]) == {"dataset.json", "plans.json", "fold_0/checkpoint_final.pth"}
    assert before != tiny.provenance(Options(augment=True))
    (folder / "organs.yaml").write_text("1: spleen")
    assert tiny.provenance(Options()) != before
    assert tiny.version() != version
    assert set(np.unique(tiny.segment(ct()).labels.array)) == {0, 1}
    beside = folder.with_name("model.organs.yaml")
    (folder / "organs.yaml").rename(beside)
    assert set(tiny.provenance(Options())["files"]) > {"organs.yaml"}


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    weights = seeded(plans())
    weights.pop("decoder.seg_layers.0.bias")
    folder = write_folder(tmp_path / "model", folds={"0": checkpoint(weights)})
    with pytest.raises(WeightsError, match=r"model: cannot be built as nnUNetTrainer does it .*seg_layers"):
        segmenter(folder).segment(ct())


def test_an_unknown_trainer_is_named(tmp_path: Path) -> None:
    content = checkpoint(seeded(plans()), trainer_name="nnUNetTrainerOfSomebody")
    folder = write_folder(tmp_path / "model", folds={"0": content})
    with pytest.raises(WeightsError, match=r"cannot be built as nnUNetTrainerOfSomebody.*install the package that defines"):
        segmenter(folder).segment(ct())


def test_an_empty_ct_is_refused(thresholds: Path) -> None:
    volume = ct()
    with pytest.raises(InputError, match="is 0 HU everywhere"):
        segmenter(thresholds).segment(volume.with_array(np.zeros_like(volume.array)))


def test_results_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = by_thresholds(plans())
    weights["decoder.seg_layers.0.bias"] += torch.tensor([0.0, 1e9, 0.0, 0.0])
    folder = write_folder(tmp_path / "model", folds={"0": checkpoint(weights)})
    with pytest.raises(WeightsError, match="not finite"):
        segmenter(folder).segment(ct())
