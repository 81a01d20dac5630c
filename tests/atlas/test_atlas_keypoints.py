"""Atlases contain their references' keypoints, build, grow and register by them, and refuse what they lack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from blocks import FEW_STEPS, PATIENT, QUICK, labelled
from medsam2_atlas.atlas import (
    Atlas,
    BuildOptions,
    GrowthOptions,
    ReferenceFiles,
    build_atlas,
    find_references,
    grow_atlas,
    subset,
)
from medsam2_atlas.base.errors import AtlasError, InputError
from medsam2_atlas.evaluation import dice_per_organ
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.registration import RegistrationCache, WorkImage, register
from medsam2_atlas.scoremaps import fusion_config, score_maps
from medsam2_atlas.segmenters.fusion import fuse_scores

KEYPOINTS = FEW_STEPS.model_copy(update={"method": "keypoints"})
BOTH = FEW_STEPS.model_copy(update={"method": "both"})
MEAN = fusion_config().as_registered().with_method("mean")
LARGE = (1, 2, 3, 6, 7, 8)
"""Spleen, kidneys, liver, stomach and aorta."""


@pytest.fixture(scope="module")
def by_keypoints(references: list[ReferenceFiles]) -> Atlas:
    return build_atlas(references[:3], BuildOptions(registration=KEYPOINTS))


def without_keypoints(atlas: Atlas) -> Atlas:
    """Returns an atlas as earlier versions stored it."""
    bare = tuple(replace(reference, keypoints=None, stored=None) for reference in atlas.references)
    return replace(atlas, template=replace(atlas.template, landmarks=None), references=bare)


def mean_dice(atlas: Atlas, image: Volume, truth: Volume, cache: RegistrationCache | None = None, **config: object) -> float:
    found = fuse_scores(score_maps(image, atlas, config=FEW_STEPS.model_copy(update=config), fusion=MEAN, cache=cache))
    return float(np.mean(list(dice_per_organ(found, truth.array, LARGE).values())))


def test_every_atlas_stores_the_keypoints_of_its_references(atlas: Atlas, tmp_path: Path) -> None:
    assert atlas.registered_by == "dense"
    assert atlas.template.landmarks is not None
    assert len(atlas.template.landmarks.images) == len(atlas.references) == 3
    for reference, image in zip(atlas.references, atlas.template.landmarks.images, strict=True):
        assert reference.keypoints is not None
        assert np.array_equal(reference.keypoints.points, image.points)
        inside = (image.points - atlas.template.origin.numpy()) / atlas.template.spacing
        assert (inside > -10).all()
        assert (inside < np.array(atlas.template.shape[::-1]) + 10).all()


def test_a_target_is_registered_by_each_method_to_each_atlas(
    atlas: Atlas, by_keypoints: Atlas, target: Volume, target_truth: Volume, tmp_path: Path
) -> None:
    cache = RegistrationCache(tmp_path)
    assert by_keypoints.registered_by == "keypoints"
    linear = FEW_STEPS.keypoints.model_copy(update={"levels": 0})
    start = mean_dice(atlas, target, target_truth, method="keypoints", keypoints=linear)
    dice = {method: mean_dice(atlas, target, target_truth, cache, method=method) for method in ("keypoints", "both")}
    assert dice["keypoints"] > start > 0.3
    assert dice["both"] > 0.6
    assert mean_dice(by_keypoints, target, target_truth, method="keypoints") > 0.5
    assert len(list(tmp_path.iterdir())) == 2, "each method has its own stored registrations"


def test_an_atlas_without_keypoints_is_read_and_refuses_the_methods_that_need_them(
    atlas: Atlas, target: Volume, references: list[ReferenceFiles], tmp_path: Path
) -> None:
    without_keypoints(atlas).save(tmp_path / "old")
    old = Atlas.load(tmp_path / "old")
    assert old.template.landmarks is None
    assert [reference.keypoints for reference in old.references] == [None] * 3
    assert old.template_version != atlas.template_version
    for method in ("keypoints", "both"):
        with pytest.raises(AtlasError, match=r"has no keypoints of its references.*Build it again.*--registration dense"):
            score_maps(target, old, config=FEW_STEPS.model_copy(update={"method": method}))
        with pytest.raises(AtlasError, match="has no keypoints"):
            grow_atlas(old, references[3:4], GrowthOptions(registration=FEW_STEPS.model_copy(update={"method": method})))
    old.check_method("dense")
    kept = grow_atlas(old, references[:3], GrowthOptions(registration=KEYPOINTS))  # nothing to register
    assert kept.kept == tuple(reference.name for reference in old.references)


def test_an_atlas_grows_by_keypoints_in_the_same_common_space(
    by_keypoints: Atlas, references: list[ReferenceFiles], tmp_path: Path
) -> None:
    options = GrowthOptions(registration=KEYPOINTS, trust=[references[3].name], cache=RegistrationCache(tmp_path))
    grown = grow_atlas(by_keypoints, references[3:4], options).atlas
    assert grown.template_version == by_keypoints.template_version
    added = grown.references[-1]
    assert added.name == references[3].name
    assert added.keypoints is not None
    back = added.transform(torch.from_numpy(added.keypoints.points))
    lower, upper = back.amin(0), back.amax(0)
    assert float((upper - lower).min()) > 100, "the keypoints cover the patient"
    overlap = np.mean(list(added.agreement.values()))
    assert overlap > 0.3


def test_a_subset_has_the_keypoints_of_its_references(by_keypoints: Atlas) -> None:
    names = [reference.name for reference in by_keypoints.references]
    two = subset(by_keypoints, names[1:])
    assert two.template.landmarks is not None
    assert by_keypoints.template.landmarks is not None
    assert [len(i) for i in two.template.landmarks.images] == [len(i) for i in by_keypoints.template.landmarks.images[1:]]
    assert two.template_version != by_keypoints.template_version


def test_a_reference_without_keypoints_is_left_out_with_the_reason(references: list[ReferenceFiles], tmp_path: Path) -> None:
    labelled(tmp_path, "blocks", PATIENT)
    skipped: dict[str, str] = {}
    files = [*references[:2], *find_references(tmp_path)]
    built = build_atlas(files, BuildOptions(registration=KEYPOINTS), skipped=skipped)
    assert list(skipped) == ["blocks"]
    assert "keypoints that match" in skipped["blocks"]
    assert "--registration dense" in skipped["blocks"]
    assert len(built.references) == 2


def test_an_atlas_of_one_reference_is_that_reference(references: list[ReferenceFiles]) -> None:
    alone = build_atlas(references[:1], BuildOptions(registration=KEYPOINTS))
    points = torch.tensor([[0.0, 0.0, 0.0], [50.0, -20.0, 30.0]])
    assert torch.allclose(alone.references[0].transform(points), points, atol=1e-3)
    assert alone.template.landmarks is not None


def test_an_image_without_structure_gets_an_error_with_the_remedy(atlas: Atlas) -> None:
    flat = torch.full((30, 30, 30), 40.0)
    flat[:, :3] = -1000
    image = WorkImage(flat, flat > -2000, torch.zeros(3), 4.0)
    for fixed, moving in ((image, atlas.template), (atlas.template, image), (image, image)):
        with pytest.raises(InputError, match=r"only 0 keypoints that match.*--registration dense"):
            register(fixed, moving, KEYPOINTS)


def test_dense_atlases_of_quick_tests_have_keypoints_or_none(tmp_path: Path) -> None:
    """Blocks have few keypoints; the dense registration does not need them."""
    labelled(tmp_path, "a", PATIENT)
    labelled(tmp_path, "b", PATIENT)
    built = build_atlas(find_references(tmp_path), BuildOptions(registration=QUICK))
    built.save(tmp_path / "atlas")
    assert Atlas.load(tmp_path / "atlas").version == built.version
