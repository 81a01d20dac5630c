"""Only references of the target's estimated sex vote on prostate or uterus, if the estimate is certain enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blocks import PATIENT, QUICK, labelled
from medsam2_atlas.atlas import Atlas, BuildOptions, build_atlas, find_references, subset
from medsam2_atlas.imaging.volume import read_labels, read_volume
from medsam2_atlas.scoremaps import AssumedSex, FusionConfig, SexConfig, estimated_sex, score_maps

CONFIG = SexConfig.model_validate({})
SENSITIVE = FusionConfig.model_validate({"vote": {"sex": {"min_certainty": 0.5}}})
"""Blocks differ less from the body around them than organs do from fat, so that the estimate is less certain."""
BLADDER = (slice(6, 11), slice(8, 14), slice(16, 25))
PROSTATE, UTERUS = (slice(2, 6), slice(8, 13), slice(17, 24)), (slice(11, 15), slice(9, 14), slice(16, 25))
MAN, WOMAN = PATIENT | {14: BLADDER, 15: PROSTATE}, PATIENT | {14: BLADDER, 15: UTERUS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two men and two women of blocks as references, and one of each as targets."""
    folder = tmp_path_factory.mktemp("sexes")
    for name, patient in {"m1": MAN, "m2": MAN, "w1": WOMAN, "w2": WOMAN}.items():
        labelled(folder, name, patient)
    for name, patient in {"man": MAN, "woman": WOMAN}.items():
        labelled(folder / "targets", name, patient)
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> Atlas:
    return build_atlas(find_references(folder), BuildOptions(registration=QUICK))


@pytest.mark.parametrize(("name", "sex"), [("man", "male"), ("woman", "female")])
def test_a_target_is_prompted_by_references_of_its_sex(folder: Path, both: Atlas, name: str, sex: str) -> None:
    target, labels = (read_volume(folder / "targets" / "images" / f"{name}.nii.gz"), folder / "targets" / "labels")
    truth = read_labels(labels / f"{name}.nii.gz").array == 15
    scores = score_maps(target, both, config=QUICK, fusion=SENSITIVE)
    assert scores.sex is not None
    assert (scores.sex.sex, scores.sex.used) == (sex, True)
    found = np.stack([scores.plane(15, z) > 0.5 for z in range(len(truth))])
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.7
    other = [reference for reference in both.references if reference.sex != sex]
    wrong = score_maps(target, subset(both, [r.name for r in other]), config=QUICK)
    assert wrong.sex is None  # references of one sex only
    found = np.stack([wrong.plane(15, z) > 0.5 for z in range(len(truth))])
    assert 2 * (found & truth).sum() / max(1, found.sum() + truth.sum()) < 0.3


def test_the_estimate_can_be_disabled_and_is_not_used_if_it_is_uncertain(folder: Path, both: Atlas) -> None:
    target = read_volume(folder / "targets" / "images" / "man.nii.gz")
    off = FusionConfig.model_validate({"vote": {"sex": {"enabled": False}}})
    unsure = FusionConfig.model_validate({"vote": {"sex": {"scale": 10.0}}})
    without, with_doubt = (score_maps(target, both, config=QUICK, fusion=fusion) for fusion in (off, unsure))
    assert without.sex is None
    assert with_doubt.sex is not None
    assert not with_doubt.sex.used
    assert np.array_equal(without.maps[15].values, with_doubt.maps[15].values)
    assert score_maps(target, both, config=QUICK, fusion=FusionConfig.model_validate({"vote": {"method": "mean"}})).sex is None


def test_the_sex_with_the_smaller_difference_is_assumed() -> None:
    upper, lower = np.zeros((8, 4, 4), np.float32), np.zeros((8, 4, 4), np.float32)
    upper[5:], lower[:3] = 1, 1
    everywhere, fat = np.ones(upper.shape, bool), np.full(upper.shape, -100.0)
    woman, man = (np.where(mask > 0, 60.0, fat) for mask in (upper, lower))
    pictures, maps = {"female": [(woman, everywhere)], "male": [(man, everywhere)]}, {"female": [upper], "male": [lower]}
    assert estimated_sex(man, everywhere, pictures, maps, CONFIG) == AssumedSex("male", 1.0, True)  # type: ignore[arg-type]
    middle = estimated_sex((man + woman) / 2, everywhere, pictures, maps, CONFIG)  # type: ignore[arg-type]
    assert middle is not None
    assert middle.certainty == 0.5
    assert not middle.used
    assert estimated_sex(man, ~everywhere, pictures, maps, CONFIG) is None  # type: ignore[arg-type]
