"""Storage of predictions under the models' own tags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.segmenters.base import Options, Provenance, Report, Segmentation
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.storage import StudyFolder, StudyStore, WorkFolder
from medsam2_atlas.studies import PredictionStore


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    image = sitk.GetImageFromArray(np.arange(480, dtype=np.int16).reshape(6, 8, 10))
    sitk.WriteImage(image, str(tmp_path / "patient.nii.gz"))
    return StudyFolder(tmp_path)


@pytest.fixture
def store(folder: StudyFolder) -> PredictionStore:
    return PredictionStore(folder.work, StudyStore(folder.path))


UNET = SimpleNamespace(sha256="u", version="u", device=torch.device("cpu"))


def result_for(image: Path) -> Segmentation:
    volume = read_volume(image)
    labels = (volume.array > 200).astype(np.uint8) * 6
    return Segmentation(volume.with_array(labels), Report(seconds={"total": 1.5}, organs=["liver"]))


def made_with(*, weights: str, augment: bool = False, device: str = "cpu") -> Provenance:
    """Returns a provenance in the form of a U-Net's."""
    return {"weights": weights, "augment": augment, "device": device, "precision": "float32" if device == "cpu" else "float16"}


def test_a_prediction_is_found_as_long_as_nothing_has_changed(folder: StudyFolder, store: PredictionStore) -> None:
    image = folder.path / "patient.nii.gz"
    made_of = made_with(weights="abc")
    assert store.find("unet_3d", "patient", image, made_of) is None
    store.save("unet_3d", "patient", image, made_of, result_for(image))
    assert (folder.path / "labels" / "unet_3d" / "patient.nii.gz").is_file()
    found = store.find("unet_3d", "patient", image, made_of)
    assert found is not None
    again = found.segmentation(image)
    assert (again.labels.array == result_for(image).labels.array).all()
    assert again.report.to_json() == {"seconds": {"total": 1.5}, "organs": ["liver"], "from_cache": True}
    assert store.find("unet_3d", "patient", image, made_with(weights="abd")) is None
    assert store.find("unet_3d", "patient", image, made_with(weights="abc", augment=True)) is None
    assert store.find("unet_2d", "patient", image, made_of) is None


def test_a_stored_result_of_the_gpu_is_not_valid_for_the_cpu(folder: StudyFolder, store: PredictionStore) -> None:
    image = folder.path / "patient.nii.gz"
    gpu = made_with(weights="abc", device="cuda")
    store.save("unet_3d", "patient", image, gpu, result_for(image))
    assert store.find("unet_3d", "patient", image, gpu) is not None
    assert store.find("unet_3d", "patient", image, made_with(weights="abc")) is None


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_predictions_of_earlier_releases_are_valid_if_made_on_the_cpu(
    folder: StudyFolder, store: PredictionStore, device: str
) -> None:
    image = folder.path / "patient.nii.gz"
    before = {k: v for k, v in made_with(weights="abc").items() if k not in ("device", "precision")}
    result = result_for(image)
    result = replace(result, report=result.report.with_fields(device=device))
    store.save("unet_3d", "patient", image, before, result)
    gpu = made_with(weights="abc", device="cuda")
    assert store.find("unet_3d", "patient", image, gpu) is None
    assert (store.find("unet_3d", "patient", image, gpu, made_with(weights="abc")) is not None) == (device == "cpu")


def test_predictions_of_releases_without_settings_are_valid_with_any_settings(
    folder: StudyFolder, store: PredictionStore
) -> None:
    image, plain = folder.path / "patient.nii.gz", made_with(weights="abc")
    store.save("unet_3d", "patient", image, plain, result_for(image))
    assert store.find("unet_3d", "patient", image, plain | {"settings": {"unet": {"overlap": 0.1}}}) is not None
    store.save("unet_3d", "patient", image, plain | {"settings": {}}, result_for(image))
    assert store.find("unet_3d", "patient", image, plain | {"settings": {}}) is not None
    assert store.find("unet_3d", "patient", image, plain | {"settings": {"unet": {"overlap": 0.1}}}) is None


def test_another_image_under_the_same_name_is_another_case(folder: StudyFolder, store: PredictionStore) -> None:
    image = folder.path / "patient.nii.gz"
    store.save("unet_3d", "patient", image, {"organs": [6]}, result_for(image))
    picture = sitk.ReadImage(str(image))
    sitk.WriteImage(picture + 1, str(image))
    assert store.find("unet_3d", "patient", image, {"organs": [6]}) is None


def test_a_label_that_replaced_a_prediction_is_not_a_prediction(folder: StudyFolder, store: PredictionStore) -> None:
    image = folder.path / "patient.nii.gz"
    kept = store.save("unet_3d", "patient", image, {"organs": [6]}, result_for(image))
    assert kept is not None
    kept.label.write_bytes(b"drawn by hand")
    assert store.find("unet_3d", "patient", image, {"organs": [6]}) is None
    assert store.latest("unet_3d", "patient") is None


def test_a_person_s_label_under_a_model_s_name_stays(folder: StudyFolder, store: PredictionStore) -> None:
    image = folder.path / "patient.nii.gz"
    studies = StudyStore(folder.path)
    kept = store.save("unet_3d", "patient", image, {"organs": [6]}, result_for(image))
    assert kept is not None
    studies.save_label("patient", "unet_3d", kept.label, author="kim")
    assert store.save("unet_3d", "patient", image, {"organs": [7]}, result_for(image)) is None
    assert studies.label("patient", "unet_3d").version.author == "kim"


def test_a_model_cannot_store_a_final_label(folder: StudyFolder, store: PredictionStore) -> None:
    image = folder.path / "patient.nii.gz"
    with pytest.raises(ValueError, match="never stored as final"):
        store.save("final", "patient", image, {}, result_for(image))
    assert not (folder.path / "labels" / "final").exists()


def test_provenances_of_different_models_and_options_differ() -> None:
    def made(name: str, atlas: str = "a", **options: Any) -> Provenance:
        given: Any = LoadedResources(SimpleNamespace(version=atlas), SimpleNamespace(sha256="w"), {"unet_3d": UNET})  # type: ignore[arg-type, dict-item]
        return given.segmenter(name).provenance(Options(**options))

    plain = made("D")
    assert plain != made("C")
    assert plain != made("D", "b")
    assert plain != made("D", prompts="both")
    assert plain != made("D", loop="published")
    assert "loop" not in plain  # as in predictions of earlier releases
    assert "weights" not in made("atlas")
    assert made("unet_3d")["organs"] == list(range(1, 16))
    assert made("unet_3d") != made("unet_3d", augment=True)


def test_a_study_folder_lists_images_and_signed_off_labels(folder: StudyFolder) -> None:
    (folder.path / "labels" / "final").mkdir(parents=True)
    (folder.path / "labels" / "final" / "patient.nii.gz").write_bytes(b"\x1f\x8b")
    (folder.path / "labels" / "final" / "other.nii.gz").write_bytes(b"x")
    (folder.path / "datastore_v2.json").write_text("{}")
    (folder.path / ".part-1.nii.gz").write_bytes(b"x")
    studies = folder.studies()
    assert [(s.name, s.final is not None) for s in studies] == [("patient", True)]
    with pytest.raises(InputError, match="not a folder"):
        StudyFolder(folder.path / "nothing")


def test_remote_studies_have_a_work_folder_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDSAM2_ATLAS_MODELS", str(tmp_path))
    one, two = (WorkFolder.of(f"http://127.0.0.1:8042/{name}") for name in ("a", "b"))
    assert one.path != two.path
    assert one.path.is_relative_to(tmp_path)
