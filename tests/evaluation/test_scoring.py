"""Scores of label map files, and their means over studies."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.evaluation import OrganScore, mean_scores, rounded_mean, score_files

SPLEEN, LIVER, AORTA = 1, 6, 8


def written(file: Path, *organs: int, width: int = 8) -> Path:
    """Writes a label map with one block for each organ."""
    array = np.zeros((6, 6, width), np.uint8)
    for number, organ in enumerate(organs):
        array[2 * number : 2 * number + 2, 1:5, 1:5] = organ
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
    return file


def no_image() -> Path:
    raise AssertionError("the image is read for segmentations of 3D Slicer only")


def test_organs_missing_in_the_ground_truth_are_not_scored(tmp_path: Path) -> None:
    truth, judged = written(tmp_path / "a.nii.gz", SPLEEN), written(tmp_path / "b.nii.gz", SPLEEN, LIVER)
    scores = score_files(truth, judged, no_image)
    assert {k: score.dice for k, score in scores.items()} == {SPLEEN: 1.0}


def test_an_organ_that_was_not_found_scores_zero(tmp_path: Path) -> None:
    truth, judged = written(tmp_path / "a.nii.gz", SPLEEN, LIVER), written(tmp_path / "b.nii.gz", SPLEEN)
    assert score_files(truth, judged, no_image)[LIVER].dice == 0.0


def test_label_maps_of_other_grids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b\.nii\.gz"):
        score_files(written(tmp_path / "a.nii.gz", SPLEEN), written(tmp_path / "b.nii.gz", SPLEEN, width=9), no_image)


def test_each_organ_is_averaged_over_the_studies_that_have_it() -> None:
    scores = [
        {SPLEEN: OrganScore(0.8, 0.9, 2.0, (1, 1)), AORTA: OrganScore(0.0, 0.0, None, (1, 0))},
        {SPLEEN: OrganScore(0.6, 0.7, 4.0, (1, 1))},
    ]
    means = mean_scores(scores)
    assert means["organs"]["spleen"] == {"studies": 2, "dice": 0.7, "nsd": 0.8, "hd95_mm": 3.0}
    assert means["organs"]["aorta"] == {"studies": 1, "dice": 0.0, "nsd": 0.0, "hd95_mm": None}
    assert (means["studies"], means["dice"], means["hd95_mm"]) == (2, 0.35, 3.0)


def test_no_scores_give_no_means() -> None:
    assert mean_scores([]) == {"studies": 0, "organs": {}}
    assert math.isnan(rounded_mean([]))
