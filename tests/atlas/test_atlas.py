"""Atlases are built, stored and applied."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blocks import BLADDER, LIVER, QUICK, bare_reference, labelled
from medsam2_atlas.atlas import Atlas, BuildOptions, ProbabilityMap, ReferenceFiles, build, build_atlas, find_references
from medsam2_atlas.atlas.reading import AnnotatedCT
from medsam2_atlas.base.errors import AtlasError, InputError
from medsam2_atlas.evaluation import dice_per_organ, mean_dice
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.registration import RegistrationCache, WorkImage, groupwise
from medsam2_atlas.scoremaps import score_maps
from medsam2_atlas.segmenters.fusion import fuse_scores


def one_block_atlas() -> Atlas:
    """Returns an atlas with a liver of probability 1 in a cube of 30 mm around the origin."""
    maps = {6: ProbabilityMap(np.full((11, 11, 11), 255, np.uint8), np.full(3, -15, np.float32), 1)}
    blank = torch.zeros(4, 4, 4)
    return Atlas(WorkImage(blank, blank > -1, torch.zeros(3), 4.0), maps, (bare_reference("a"),))


def test_the_probability_of_an_organ_is_the_share_of_references_that_have_it(
    references: list[ReferenceFiles], atlas: Atlas
) -> None:
    assert set(atlas.maps) == set(range(1, 16))
    assert [r.name for r in atlas.references] == [r.name for r in references[:3]]
    liver = atlas.maps[6]
    assert liver.count == 3
    assert liver.values.max() == 255
    inside = float((liver.values > 0).mean())
    assert 0.1 < inside < 0.9


def test_an_atlas_is_read_as_it_was_written(atlas: Atlas, atlas_folder: Path, tmp_path: Path) -> None:
    read = Atlas.load(atlas_folder)
    assert [r.describe() for r in read.references] == [r.describe() for r in atlas.references]
    assert (read.version, read.template_version) == (atlas.version, atlas.template_version)
    for k, organ_map in atlas.maps.items():
        assert (read.maps[k].values == organ_map.values).all()
        assert np.allclose(read.maps[k].origin, organ_map.origin)
    points = torch.rand(50, 3) * 100
    for a, b in zip(read.references, atlas.references, strict=True):
        assert (a.transform(points) - b.transform(points)).abs().max() < 0.1
        assert set(a.shares) == set(b.shares) == set(a.organs)
        assert all((a.shares[k].values == b.shares[k].values).all() for k in a.organs)
        assert (a.covered == b.covered).all()
    written, group = atlas.template.group, read.template.group
    assert written is not None and group is not None
    assert (group.values == written.values).all() and (group.known == written.known).all()
    read.save(tmp_path / "copy")
    assert Atlas.load(tmp_path / "copy").version == read.version


def test_an_atlas_without_mean_descriptors_is_read_and_has_another_version(atlas: Atlas, tmp_path: Path) -> None:
    older = replace(atlas, template=replace(atlas.template, group=None))
    older.save(tmp_path / "older")
    read = Atlas.load(tmp_path / "older")
    assert read.template.group is None
    assert read.template_version == older.template_version != atlas.template_version
    assert read.version != atlas.version


def test_an_atlas_replaces_an_atlas_but_nothing_else(tmp_path: Path) -> None:
    one_block_atlas().save(tmp_path / "a")
    one_block_atlas().save(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("years of work")
    with pytest.raises(AtlasError, match="not an atlas"):
        one_block_atlas().save(tmp_path / "b")
    assert (tmp_path / "b" / "thesis.txt").read_text() == "years of work"


def test_a_damaged_atlas_is_refused_by_name(tmp_path: Path) -> None:
    one_block_atlas().save(tmp_path / "a")
    (tmp_path / "a" / "maps.npz").write_bytes(b"broken")
    with pytest.raises(AtlasError, match="cannot be read"):
        Atlas.load(tmp_path / "a")


def test_an_organ_missing_from_a_label_map_is_unknown_or_absent_by_option(tmp_path: Path) -> None:
    labelled(tmp_path, "a", {6: LIVER, 14: BLADDER})
    labelled(tmp_path, "b", {6: LIVER})
    files = find_references(tmp_path)
    unknown = build_atlas(files, BuildOptions(missing="unknown", registration=QUICK))
    absent = build_atlas(files, BuildOptions(missing="absent", registration=QUICK))
    assert unknown.maps[14].count == absent.maps[14].count == 1
    assert unknown.maps[14].values.max() > 240
    assert absent.maps[14].values.max() < 140
    assert unknown.maps[6].values.max() > 240


def test_only_references_that_cover_a_voxel_count_there(tmp_path: Path) -> None:
    labelled(tmp_path, "a", {6: LIVER, 14: BLADDER})
    labelled(tmp_path, "b", {6: LIVER}, z_from=10)
    atlas = build_atlas(find_references(tmp_path), BuildOptions(missing="absent", registration=QUICK))
    assert atlas.maps[14].values.max() > 200


def test_labels_outside_the_organ_table_are_refused(tmp_path: Path) -> None:
    labelled(tmp_path, "a", {6: LIVER, 99: BLADDER})
    with pytest.raises(InputError, match=r"\[99\]"):
        build_atlas(find_references(tmp_path), BuildOptions(registration=QUICK))


def test_an_unusable_reference_does_not_stop_the_building(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "odd"):
        labelled(tmp_path, name, {6: LIVER, 14: BLADDER})
    labelled(tmp_path, "strange", {6: LIVER, 99: BLADDER})
    labelled(tmp_path, "cut", {6: LIVER})
    (tmp_path / "images" / "cut.nii.gz").write_bytes(b"")
    real = build.warp_reference

    def warp(case: AnnotatedCT, *rest: Any) -> Any:
        if case.name == "odd":
            raise ZeroDivisionError("from a library")
        return real(case, *rest)

    monkeypatch.setattr(build, "warp_reference", warp)
    skipped: dict[str, str] = {}
    atlas = build_atlas(find_references(tmp_path), BuildOptions(registration=QUICK), skipped=skipped)
    assert [reference.name for reference in atlas.references] == ["a", "b"]
    assert set(skipped) == {"cut", "odd", "strange"}
    assert "[99]" in skipped["strange"]
    assert skipped["odd"] == "ZeroDivisionError: from a library"
    bad = [files for files in find_references(tmp_path) if files.name in ("strange", "cut")]
    with pytest.raises(AtlasError, match=r"no reference that can be used.*\[99\]"):
        build_atlas(bad, BuildOptions(registration=QUICK), skipped={})


def test_an_atlas_without_labels_is_refused(tmp_path: Path) -> None:
    labelled(tmp_path, "a", {})
    with pytest.raises(InputError, match="contains no organ"):
        build_atlas(find_references(tmp_path), BuildOptions(registration=QUICK))
    with pytest.raises(AtlasError, match=r"no reference that can be used: a: .*contains no organ"):
        build_atlas(find_references(tmp_path), BuildOptions(registration=QUICK), skipped={})


def test_files_without_a_pair_are_skipped_or_refused(tmp_path: Path) -> None:
    for name in ("a", "b", "no-label", "no-image", "twice"):
        labelled(tmp_path, name, {6: LIVER})
    (tmp_path / "labels" / "no-label.nii.gz").unlink()
    (tmp_path / "images" / "no-image.nii.gz").unlink()
    shutil.copy(tmp_path / "labels" / "twice.nii.gz", tmp_path / "labels" / "twice.nrrd")
    skipped: dict[str, str] = {}
    assert [files.name for files in find_references(tmp_path, skipped)] == ["a", "b"]
    assert skipped == {
        "no-image": "images/ has no file of that name.",
        "no-label": "labels/ has no file of that name.",
        "twice": "labels/ has several files of that name: twice.nii.gz, twice.nrrd.",
    }
    with pytest.raises(InputError, match=r"no pair.*no-image: images/.*no-label"):
        find_references(tmp_path)
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="has no annotated CTs"):
        find_references(tmp_path, {})


def test_a_reference_that_cannot_be_registered_does_not_stop_the_building(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "odd"):
        labelled(tmp_path, name, {6: LIVER}, z_from=10 if name == "odd" else 0)
    real = groupwise.register

    def register(fixed: WorkImage, moving: WorkImage, *rest: Any) -> Any:
        if moving.shape[0] < 20:
            raise RuntimeError("input image smaller than kernel size")
        return real(fixed, moving, *rest)

    monkeypatch.setattr(groupwise, "register", register)
    skipped: dict[str, str] = {}
    atlas = build_atlas(find_references(tmp_path), BuildOptions(registration=QUICK), skipped=skipped)
    assert [reference.name for reference in atlas.references] == ["a", "b"]
    assert skipped == {"odd": "RuntimeError: input image smaller than kernel size"}
    with pytest.raises(AtlasError, match="odd: cannot be used as a reference: RuntimeError"):
        build_atlas(find_references(tmp_path), BuildOptions(registration=QUICK))


def test_scores_alone_find_the_organs_of_an_unseen_patient(
    target: Volume, target_truth: Volume, atlas: Atlas, registrations: RegistrationCache
) -> None:
    labels = fuse_scores(score_maps(target, atlas, cache=registrations))
    assert mean_dice(dice_per_organ(labels, target_truth.array, range(1, 16))) > 0.55


def test_the_description_of_an_atlas_is_plain_json(atlas_folder: Path) -> None:
    about = json.loads((atlas_folder / "atlas.json").read_text())
    assert about["organs"]["6"] == "liver"
    assert len(about["references"]) == 3
