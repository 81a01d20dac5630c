"""An atlas grows by signed-off labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blocks import BLADDER, LEFT_KIDNEY, LIVER, PATIENT, QUICK, RIGHT_KIDNEY, labelled
from medsam2_atlas.atlas import (
    Atlas,
    AtlasStore,
    BuildOptions,
    GrowthOptions,
    ReferenceFiles,
    build_atlas,
    find_references,
    grow,
    grow_atlas,
    novelty,
    resolve_atlas,
)
from medsam2_atlas.atlas.outlier import outlying
from medsam2_atlas.atlas.reading import AnnotatedCT
from medsam2_atlas.atlas.reference import map_shape
from medsam2_atlas.base.errors import AtlasError, MedSAM2AtlasError
from medsam2_atlas.registration import RegistrationCache

QUICKLY = GrowthOptions(registration=QUICK)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets an entry for each registration of a new reference."""
    calls: list[str] = []
    real = grow.register

    def register(*args: object, **kwargs: object) -> object:
        calls.append("registered")
        return real(*args, **kwargs)

    monkeypatch.setattr(grow, "register", register)
    return calls


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patients")
    for name in ("a", "b", "c", "d"):
        labelled(folder, name, PATIENT)
    return folder


@pytest.fixture(scope="module")
def base(patients: Path) -> Atlas:
    return build_atlas(find_references(patients)[:3], BuildOptions(registration=QUICK))


def test_only_new_references_are_registered(patients: Path, base: Atlas, counted: list[str]) -> None:
    grown = grow_atlas(base, find_references(patients), QUICKLY)
    assert (grown.added, grown.kept) == (("d",), ("a", "b", "c"))
    assert len(counted) == 1
    assert grown.atlas.template_version == base.template_version
    assert grown.atlas.version != base.version
    assert [r.origin for r in grown.atlas.references] == ["base", "base", "base", "final"]
    assert grown.atlas.maps[6].count == 4
    assert base.maps[6].count == 3


def test_a_case_that_raises_any_error_does_not_block_the_others(
    patients: Path, base: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled(tmp_path, "odd", PATIENT)
    (d,) = [files for files in find_references(patients) if files.name == "d"]
    finals = [*find_references(tmp_path), ReferenceFiles("gone", d.image, tmp_path / "gone.nii.gz"), d]
    real = grow.warp_reference

    def warp(case: AnnotatedCT, *rest: object) -> object:
        if case.name == "odd":
            raise RuntimeError("from a library")
        return real(case, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(grow, "warp_reference", warp)
    grown = grow_atlas(base, finals, QUICKLY)
    assert grown.added == ("d",)
    assert grown.refused["odd"] == "RuntimeError: from a library"
    assert "gone.nii.gz" in grown.refused["gone"]
    first = grow_atlas(None, [*finals, *find_references(patients)[:2]], QUICKLY)  # without a base
    assert {"a", "b", "d"} <= {reference.name for reference in first.atlas.references}
    assert "gone" in first.refused
    for start in (base, None):
        with pytest.raises(MedSAM2AtlasError, match=r"odd: cannot be used|gone"):
            grow_atlas(start, finals, GrowthOptions(registration=QUICK, strict=True))


def test_growing_one_by_one_gives_the_same_maps_as_growing_at_once(patients: Path, base: Atlas) -> None:
    labelled(patients / "more", "e", {2: RIGHT_KIDNEY, 6: LIVER}, seen=PATIENT)
    files = [find_references(patients)[3], *find_references(patients / "more")]
    once = grow_atlas(base, files, QUICKLY).atlas
    step = grow_atlas(grow_atlas(base, files[:1], QUICKLY).atlas, files, QUICKLY).atlas
    assert step.version == once.version
    back = grow_atlas(once, [], QUICKLY)
    assert back.removed == ("d", "e")
    assert back.atlas.version == base.version


def test_a_corrected_label_replaces_the_old_one_without_a_new_registration(
    tmp_path: Path, base: Atlas, counted: list[str]
) -> None:
    cache = RegistrationCache(tmp_path / "cache")
    labelled(tmp_path, "e", {6: LIVER, 14: BLADDER}, seen=PATIENT)
    first = grow_atlas(base, find_references(tmp_path), GrowthOptions(registration=QUICK, cache=cache))
    (tmp_path / "labels" / "e.nii.gz").unlink()
    smaller = (slice(18, 26), slice(8, 16), slice(7, 13))
    labelled(tmp_path, "e", {6: smaller, 14: BLADDER}, seen=PATIENT)
    second = grow_atlas(first.atlas, find_references(tmp_path), GrowthOptions(registration=QUICK, cache=cache))
    assert second.added == ("e",)
    assert len(counted) == 1
    sizes = [{r.name: int(r.shares[6].values.sum()) for r in g.atlas.references}["e"] for g in (first, second)]
    assert 0.6 * sizes[0] < sizes[1] < 0.85 * sizes[0]


def test_a_replaced_image_with_the_same_label_is_registered_again(tmp_path: Path, base: Atlas, counted: list[str]) -> None:
    labelled(tmp_path, "e", PATIENT)
    first = grow_atlas(base, find_references(tmp_path), QUICKLY)
    first.atlas.save(tmp_path / "atlas")
    kept = grow_atlas(Atlas.load(tmp_path / "atlas"), find_references(tmp_path), QUICKLY)
    assert ("e" in kept.kept, kept.added, len(counted)) == (True, (), 1)
    labelled(tmp_path, "e", PATIENT, seen={6: LIVER, 14: BLADDER})
    again = grow_atlas(Atlas.load(tmp_path / "atlas"), find_references(tmp_path), QUICKLY)
    assert (again.added, len(counted)) == (("e",), 2)
    again.atlas.save(tmp_path / "atlas")
    pictures = [{r.name: r.picture for r in g.references}["e"] for g in (first.atlas, Atlas.load(tmp_path / "atlas"))]
    assert (pictures[0] != pictures[1]).any()


def test_excluded_references_are_removed_even_from_the_base(patients: Path, base: Atlas) -> None:
    grown = grow_atlas(base, find_references(patients), GrowthOptions(exclude=["a", "d"], registration=QUICK))
    assert [r.name for r in grown.atlas.references] == ["b", "c"]
    assert grown.removed == ("a",)


def test_swapped_labels_are_refused_with_the_reason_unless_trusted(tmp_path: Path, base: Atlas) -> None:
    labelled(tmp_path, "swapped", {2: LEFT_KIDNEY, 3: RIGHT_KIDNEY, 6: LIVER}, seen=PATIENT)
    labelled(tmp_path, "good", {2: RIGHT_KIDNEY, 3: LEFT_KIDNEY}, seen=PATIENT)
    files = find_references(tmp_path)
    grown = grow_atlas(base, files, QUICKLY)
    assert grown.added == ("good",)
    assert "Right kidney and Left kidney lie in each other's place" in grown.refused["swapped"]
    assert grow_atlas(base, files, GrowthOptions(trust=["swapped"], registration=QUICK)).added == ("good", "swapped")


def test_an_organ_far_from_its_position_in_the_other_references_is_refused(tmp_path: Path, base: Atlas) -> None:
    labelled(tmp_path, "odd", {14: LIVER}, seen=PATIENT)
    assert "Bladder lies" in grow_atlas(base, find_references(tmp_path), QUICKLY).refused["odd"]


def test_a_partially_imaged_organ_is_compared_with_the_same_part_of_the_others(base: Atlas) -> None:
    whole = base.references[2]
    shape = map_shape(base.template)
    share = whole.shares[6]
    cut = share.lower[0] + share.values.shape[0] * 3 // 4  # three quarters of the liver lie outside the scan
    covered = whole.covers(shape)
    covered[:cut] = False
    values = share.values.copy()
    values[: cut - share.lower[0]] = 0
    partial = replace(whole, shares={6: replace(share, values=values)}, covered=np.packbits(covered), organs=(6,))
    assert outlying(partial, base.references[:2], base.template) == ""
    unseen = replace(partial, covered=whole.covered)  # the same outline, but the scan shows the rest of the liver
    assert "mean Dice" in outlying(unseen, base.references[:2], base.template)


def test_bad_outlines_in_the_right_place_are_refused(tmp_path: Path, base: Atlas) -> None:
    speck = {k: tuple(slice((s.start + s.stop) // 2, (s.start + s.stop) // 2 + 1) for s in box) for k, box in PATIENT.items()}
    labelled(tmp_path, "specks", speck, seen=PATIENT)  # type: ignore[arg-type]
    grown = grow_atlas(base, find_references(tmp_path), QUICKLY)
    assert "mean Dice of only 0." in grown.refused["specks"]


def test_a_damaged_file_does_not_block_the_others(tmp_path: Path, base: Atlas) -> None:
    labelled(tmp_path, "broken", PATIENT)
    labelled(tmp_path, "good", PATIENT)
    (tmp_path / "labels" / "broken.nii.gz").write_bytes(b"not a label map")
    grown = grow_atlas(base, find_references(tmp_path), QUICKLY)
    assert grown.added == ("good",)
    assert "broken.nii.gz" in grown.refused["broken"]


def test_without_a_base_the_atlas_is_built_from_signed_off_labels(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        labelled(tmp_path, name, PATIENT)
    labelled(tmp_path, "swapped", PATIENT | {2: LEFT_KIDNEY, 3: RIGHT_KIDNEY})
    grown = grow_atlas(None, find_references(tmp_path), QUICKLY)
    assert grown.added == ("a", "b", "c")
    assert set(grown.refused) == {"swapped"}
    assert {r.origin for r in grown.atlas.references} == {"final"}
    with pytest.raises(AtlasError, match="no references"):
        grow_atlas(None, [])


def test_agreement_is_the_dice_of_a_reference_with_the_others(base: Atlas) -> None:
    assert base.agreement[6] > 0.9
    assert set(base.references[0].agreement) == {2, 3, 6, 14}


def test_novelty_is_the_distance_to_the_most_similar_reference(base: Atlas) -> None:
    assert novelty(base.references[0].thumbnail, base.references) == pytest.approx(0, abs=1e-9)
    noise = np.random.default_rng(0).normal(0, 200, base.references[0].thumbnail.shape).astype(np.int16)
    assert novelty(noise, base.references) > 0.5


def test_a_store_keeps_old_versions_and_can_activate_them(tmp_path: Path, patients: Path, base: Atlas) -> None:
    store = AtlasStore(tmp_path / "store")
    assert store.current is None
    store.publish(base)
    in_use = Atlas.load(resolve_atlas(store.folder))
    grown = grow_atlas(in_use, find_references(patients), QUICKLY).atlas
    store.publish(grown)
    assert store.versions == [base.version, grown.version]
    assert Atlas.load(resolve_atlas(store.folder)).version == grown.version
    assert in_use.version == Atlas.load(in_use.source).version == base.version
    shared = [file.stat().st_nlink for file in (store.folder / "versions" / base.version / "references").iterdir()]
    assert shared == [2, 2, 2]
    store.activate(base.version)
    assert Atlas.load(resolve_atlas(store.folder)).version == base.version
    with pytest.raises(AtlasError, match="not a version"):
        store.activate("none")
    assert store.current is not None
    assert store.current.name == base.version
