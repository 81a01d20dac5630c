"""Real CTs: score maps of an atlas with real references are anatomically plausible."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medsam2_atlas.atlas import Atlas, ReferenceFiles, build_atlas, find_references, grow_atlas
from medsam2_atlas.evaluation import dice_per_organ
from medsam2_atlas.imaging.volume import read_labels, read_volume
from medsam2_atlas.segmenters.case import Case
from medsam2_atlas.segmenters.places import find_unet
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.segmenters.strategies import segment
from medsam2_atlas.unet import TrainingCase, UNetTraining, load_unet, unet_config, with_training


def atlas_of(names: list[str], real_cts: Path, folder: Path) -> Atlas:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for name in names:
        shutil.copy(real_cts / name / "ct.nii.gz", folder / "images" / f"{name}.nii.gz")
        shutil.copy(real_cts / name / "label.nii.gz", folder / "labels" / f"{name}.nii.gz")
    return build_atlas(find_references(folder))


@pytest.fixture(scope="module")
def real_atlas(real_cts: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return atlas_of(["whole_abdomen_3mm", "cropped_trunk"], real_cts, tmp_path_factory.mktemp("refs"))


def test_score_maps_place_organs_of_a_real_dicom_series_plausibly(real_atlas: Atlas, real_cts: Path) -> None:
    image = read_volume(real_cts / "dicom_abdomen" / "dicom")
    labels = segment(Case(image, LoadedResources(real_atlas)), "atlas").labels
    assert labels.array.shape == (75, 512, 512)
    centre = {
        k: image.geometry.to_world(np.argwhere(labels.array == k).mean(0)[::-1])
        for k in (1, 2, 3, 6)
        if (labels.array == k).any()
    }
    assert set(centre) == {1, 2, 3, 6}
    spleen, right, left, liver = (centre[k] for k in (1, 2, 3, 6))
    assert right[0] < left[0] and liver[0] < spleen[0]  # LPS: x grows to the patient's left
    assert abs(right[2] - left[2]) < 60
    assert liver[2] > right[2] - 20 and spleen[2] > left[2] - 20
    assert right[1] > liver[1]  # kidneys lie behind the liver's middle
    # The labelled tissue has the density of organs, not of air, lung or fat.
    for k in (1, 2, 3, 6):
        assert 20 < np.median(image.array[labels.array == k]) < 300


def test_organs_of_an_unseen_real_patient_are_found_with_one_reference(real_cts: Path, tmp_path: Path) -> None:
    atlas = atlas_of(["cropped_trunk"], real_cts, tmp_path)
    image = read_volume(real_cts / "whole_abdomen_3mm" / "ct.nii.gz")
    truth = read_labels(real_cts / "whole_abdomen_3mm" / "label.nii.gz", image)
    dice = dice_per_organ(segment(Case(image, LoadedResources(atlas)), "atlas").labels.array, truth.array, (2, 3, 6))
    assert np.mean(list(dice.values())) > 0.3


def test_a_real_ct_joins_the_atlas_of_another(real_cts: Path, tmp_path: Path) -> None:
    base = atlas_of(["whole_abdomen_3mm"], real_cts, tmp_path / "base")
    folder = real_cts / "cropped_trunk"
    grown = grow_atlas(base, [ReferenceFiles("cropped", folder / "ct.nii.gz", folder / "label.nii.gz")])
    assert grown.added == ("cropped",)
    assert grown.refused == {}
    assert grown.atlas.maps[2].count == 2
    assert grown.atlas.agreement[2] > 0.4


def test_a_unet_s_label_map_has_the_grid_of_a_real_dicom_series(real_cts: Path) -> None:
    image = read_volume(real_cts / "dicom_abdomen" / "dicom")
    result = LoadedResources(unets={"unet_3d": load_unet(find_unet("unet_3d"))}).segmenter("unet_3d").segment(image)
    assert result.labels.geometry == image.geometry
    assert result.report.mark == "demo weights: synthetic phantoms only"


def test_real_cts_with_some_organs_annotated_train_a_unet(real_cts: Path, tmp_path: Path) -> None:
    names = ("whole_abdomen_3mm", "cropped_trunk")
    cases = [TrainingCase(n, real_cts / n / "ct.nii.gz", real_cts / n / "label.nii.gz") for n in names]
    present = [{int(k) for k in np.unique(read_labels(case.label).array)} - {0} for case in cases]
    tiny = unet_config("unet_3d").model_copy(update={"spacing": (6.0, 6.0, 6.0), "patch": (32, 32, 32), "filters": (4, 8, 16)})
    config = with_training(tiny.model_copy(update={"heads": 1}), {"epochs": 24, "learning_rate": 0.01, "validate_every": 6})
    stats = UNetTraining(cases, config, tmp_path / "run", torch.device("cpu")).run()
    assert np.mean(stats["loss"][-3:]) < 0.8 * stats["loss"][0]
    trained = present[names.index(stats["train_cases"][0])]
    assert set(load_unet(tmp_path / "run" / "best.pt").cases) == trained
