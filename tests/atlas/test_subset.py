"""An atlas of some references has what these references determine; only the common space is that of all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from blocks import PATIENT, QUICK, labelled
from medsam2_atlas.atlas import Atlas, BuildOptions, ReferenceFiles, build_atlas, find_references, nested_subsets, subset
from medsam2_atlas.atlas.build import group_of
from medsam2_atlas.atlas.reference import NO_VOXEL
from medsam2_atlas.base.errors import AtlasError, InputError
from medsam2_atlas.evaluation import prompt_errors
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume, read_labels, read_volume
from medsam2_atlas.prompting import prompting_config, prompts_from_scores
from medsam2_atlas.registration import RegistrationCache, mean_of_warped
from medsam2_atlas.registration.work_image import AIR
from medsam2_atlas.scoremaps import FusionConfig, Thresholds, score_maps, with_thresholds

VOTES_ONLY = FusionConfig.model_validate({"bend": {"enabled": False}, "correct": {"enabled": False}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three patients: `b` has a smaller liver and no bladder label, and the scan of `c` begins higher."""
    folder = tmp_path_factory.mktemp("patients")
    z, y, x = PATIENT[6]
    labelled(folder, "a", PATIENT)
    smaller = PATIENT | {6: (z, y, slice(x.start, x.stop - 2))}
    labelled(folder, "b", {k: smaller[k] for k in (2, 3, 6)}, seen=smaller)
    labelled(folder, "c", {k: PATIENT[k] for k in (2, 3, 6)}, z_from=6, seen=PATIENT)
    labelled(folder / "target", "t", PATIENT)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Atlas:
    return build_atlas(find_references(folder), BuildOptions(registration=QUICK))


@pytest.fixture(scope="module")
def patient(folder: Path) -> Volume:
    return read_volume(folder / "target" / "images" / "t.nii.gz")


def test_a_subset_of_all_references_gives_the_same_score_maps(whole: Atlas, patient: Volume) -> None:
    same = subset(whole, ["c", "a", "b"])
    assert (same.version, same.template_version) == (whole.version, whole.template_version)
    assert same.source == whole.source
    assert [r.describe() for r in same.references] == [r.describe() for r in whole.references]
    for k, known in whole.maps.items():
        assert (same.maps[k].values == known.values).all()
        assert (same.maps[k].origin == known.origin).all()
        assert same.maps[k].count == known.count
    found, expected = (score_maps(patient, atlas, config=QUICK, fusion=VOTES_ONLY) for atlas in (same, whole))
    assert set(found.maps) == set(expected.maps)
    assert all((found.maps[k].values == expected.maps[k].values).all() for k in expected.maps)


def test_maps_counts_and_agreements_are_those_of_the_chosen_references(whole: Atlas) -> None:
    two = subset(whole, ["b", "a"])
    assert [r.name for r in two.references] == ["a", "b"]
    a, b = two.references
    assert (two.maps[6].count, two.maps[14].count, whole.maps[6].count) == (2, 1, 3)
    in_both = a.shares[6].part(two.maps[6].on_grid(whole.template).spans) / 2
    in_both += b.shares[6].part(two.maps[6].on_grid(whole.template).spans) / 2
    assert np.abs(two.maps[6].values - in_both).max() <= 0.5
    assert set(a.agreement) == {2, 3, 6}  # nobody else has the bladder
    assert a.agreement[6] == b.agreement[6] != whole.references[0].agreement[6]
    (alone,) = subset(whole, ["c"]).references
    assert alone.agreement == {}


def test_an_organ_that_no_chosen_reference_has_is_missing(whole: Atlas, patient: Volume) -> None:
    two = subset(whole, ["b", "c"])
    assert set(two.maps) == {2, 3, 6}
    found = prompts_from_scores(score_maps(patient, two, config=QUICK, fusion=VOTES_ONLY), organ_table(), [6, 14], (0.5,))
    assert found.missing == {14: "no reference of the atlas has it labelled"}


def test_the_mean_image_and_the_mean_descriptors_are_those_of_the_chosen_references(whole: Atlas) -> None:
    (reference,) = [r for r in whole.references if r.name == "c"]
    template = subset(whole, ["c"]).template
    seen = reference.picture > NO_VOXEL
    assert not seen.all()
    assert (template.valid.numpy() == seen).all()
    assert (template.hu.numpy() == np.where(seen, reference.picture, AIR)).all()
    expected = group_of([reference], whole.template, QUICK)
    assert template.group is not None
    assert (template.group.values == expected.values).all()
    assert (template.group.known == expected.known).all()
    assert template.shape == whole.template.shape
    assert (template.origin == whole.template.origin).all()


def test_the_mean_of_warped_images_counts_only_images_that_cover_a_voxel(whole: Atlas) -> None:
    values, valid = torch.tensor([100.0, 40.0, 10.0]), torch.tensor([1, 1, 0]).bool()
    shape = whole.template.shape
    images = [(v.expand(shape), ok.expand(shape)) for v, ok in zip(values, valid, strict=True)]
    mean = mean_of_warped(images, whole.template, 0.6)
    assert mean.valid.all() and (mean.hu == 70).all()
    rare = mean_of_warped(images, whole.template, 0.7)
    assert not rare.valid.any() and (rare.hu == AIR).all()


def test_an_atlas_without_mean_descriptors_has_subsets_without_them(whole: Atlas) -> None:
    older = replace(whole, template=replace(whole.template, group=None))
    assert subset(older, ["a"]).template.group is None


def test_stored_thresholds_are_omitted_and_the_original_is_named(whole: Atlas) -> None:
    found = with_thresholds(whole, Thresholds({6: 0.35}, {6: 0.9}, "local", True, 3))
    found = replace(found, options=found.options | {"hu_offsets": {"a": 1000, "b": -1000}})
    few, same = subset(found, ["a"]), subset(found, ["a", "b", "c"])
    for atlas in (few, same):
        assert "thresholds" not in atlas.options
        assert atlas.options["subset_of"] == found.version
        assert atlas.options["registration"] == whole.options["registration"]
    assert few.options["hu_offsets"] == {"a": 1000}
    assert same.version == whole.version != found.version


def test_registrations_and_score_maps_of_different_subsets_are_not_confused(
    whole: Atlas, patient: Volume, tmp_path: Path
) -> None:
    atlases = [subset(whole, names) for names in (("a",), ("b",), ("a", "b"))]
    assert len({atlas.version for atlas in (whole, *atlases)}) == 4
    assert len({atlas.template_version for atlas in (whole, *atlases)}) == 4
    assert subset(whole, ["b", "a"]).version == atlases[2].version
    cache = RegistrationCache(tmp_path)
    first = [score_maps(patient, atlas, config=QUICK, fusion=VOTES_ONLY, cache=cache) for atlas in atlases]
    assert len(list(tmp_path.iterdir())) == 3
    for atlas, before in zip(reversed(atlases), reversed(first), strict=True):
        again = score_maps(patient, atlas, config=QUICK, fusion=VOTES_ONLY, cache=cache)
        assert all((again.maps[k].values == before.maps[k].values).all() for k in before.maps)
    assert len({int(found.maps[6].values.sum()) for found in first}) == 3


def test_a_subset_can_be_stored_and_shares_the_files_of_its_references(whole: Atlas, tmp_path: Path) -> None:
    whole.save(tmp_path / "whole")
    few = subset(Atlas.load(tmp_path / "whole"), ["a", "c"])
    few.save(tmp_path / "few")
    read = Atlas.load(tmp_path / "few")
    assert (read.version, read.template_version) == (few.version, few.template_version)
    assert [file.stat().st_nlink for file in (tmp_path / "few" / "references").iterdir()] == [2, 2]
    assert subset(read, ["a"]).version == subset(whole, ["a"]).version


def test_one_reference_gives_usable_prompts(whole: Atlas, patient: Volume, folder: Path) -> None:
    scores = score_maps(patient, subset(whole, ["a"]), config=QUICK)
    prompts = prompts_from_scores(scores, organ_table(), PATIENT, prompting_config().three_boxes)
    truth = read_labels(folder / "target" / "labels" / "t.nii.gz", patient)
    errors = prompt_errors(prompts, truth, PATIENT)
    assert set(errors) == set(PATIENT)
    for error in errors.values():
        assert error is not None
        assert error.centre < 6  # a voxel
        assert np.mean(error.iou) > 0.7


def test_one_reference_finds_most_organs_of_a_synthetic_patient(
    atlas: Atlas, short_files: ReferenceFiles, registrations: RegistrationCache
) -> None:
    image = read_volume(short_files.image)
    few = subset(atlas, [atlas.references[1].name])
    prompts = prompts_from_scores(score_maps(image, few, cache=registrations), organ_table(), range(1, 13), (0.5,))
    errors = prompt_errors(prompts, read_labels(short_files.label, image), range(1, 13))
    usable = [k for k, error in errors.items() if error is not None and error.usable]
    assert len(usable) >= 10
    assert {1, 2, 3, 6} <= set(usable)


def test_unknown_or_no_names_are_refused_with_the_available_ones(whole: Atlas) -> None:
    with pytest.raises(AtlasError, match=r"no reference x, y\. Choose from: a, b, c"):
        subset(whole, ["y", "a", "x"])
    with pytest.raises(AtlasError, match="no references"):
        subset(whole, [])


def test_an_atlas_without_valid_registration_parameters_is_refused(whole: Atlas) -> None:
    for record in ({}, {"registration": {"unheard_of": 1}}):
        odd = replace(whole, options={"missing": "unknown", **record})
        with pytest.raises(AtlasError, match="registration parameters"):
            subset(odd, ["a"])
        assert len(subset(odd, ["a", "b", "c"]).references) == 3  # nothing is computed from the parameters


def test_drawn_subsets_are_nested_and_reproducible() -> None:
    names = [f"case {n}" for n in range(10)]
    found = nested_subsets(names, [5, 1, 3, 3, 10], np.random.default_rng(3))
    assert list(found) == [1, 3, 5, 10]
    assert all(len(set(chosen)) == count for count, chosen in found.items())
    assert found[3][:1] == found[1] and found[5][:3] == found[3] and found[10][:5] == found[5]
    assert found == nested_subsets(reversed(names), [1, 3, 5, 10], np.random.default_rng(3))  # type: ignore[arg-type]
    others = {nested_subsets(names, [3], np.random.default_rng(seed))[3] for seed in range(5)}
    assert len(others) == 5


def test_each_reference_is_drawn_equally_often() -> None:
    generator = np.random.default_rng(0)
    drawn = [nested_subsets("abcd", [1], generator)[1][0] for _ in range(400)]
    assert [drawn.count(name) for name in "abcd"] == pytest.approx([100] * 4, abs=30)


@pytest.mark.parametrize("count", [0, -1, 4])
def test_a_subset_larger_than_the_atlas_or_empty_is_refused(count: int) -> None:
    with pytest.raises(InputError, match="Choose 1 to 3"):
        nested_subsets("abc", [1, count], np.random.default_rng(0))
