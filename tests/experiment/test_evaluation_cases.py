"""Cases of an experiment: pairs of files; duplicates and references are left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from blocks import bare_reference
from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.experiment.cases import find_cases, independent_cases, same_names


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Returns folders of three cases; their files are hashed but never decoded here."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder in (images, labels):
        folder.mkdir()
        for name in "abc":
            (folder / f"{name}.nii.gz").write_bytes(f"{folder.name} {name}".encode())
    return images, labels


def test_cases_are_pairs_of_files_with_the_same_name(folders: tuple[Path, Path]) -> None:
    (folders[1] / "c.nii.gz").unlink()
    skipped: dict[str, str] = {}
    assert [case.name for case in find_cases(*folders, skipped)] == ["a", "b"]
    assert skipped == {"c": "labels/ has no file of that name."}
    with pytest.raises(InputError, match="no file of that name"):
        find_cases(*folders)


def test_the_second_of_two_equal_images_is_left_out(folders: tuple[Path, Path]) -> None:
    (folders[0] / "b.nii.gz").write_bytes((folders[0] / "a.nii.gz").read_bytes())
    skipped: dict[str, str] = {}
    assert [case.name for case in find_cases(*folders, skipped)] == ["a", "c"]
    assert "same image as a" in skipped["b"]
    with pytest.raises(InputError, match="same image as a"):
        find_cases(*folders)


def test_references_of_the_atlas_are_left_out_by_image_or_label(folders: tuple[Path, Path], atlas: Atlas) -> None:
    cases = find_cases(*folders)
    by_label = replace(bare_reference("first"), sha256=cases[0].label_sha256)
    by_image = replace(bare_reference("second"), image_sha256=cases[1].image_sha256)
    known = replace(atlas, references=(by_label, by_image))
    skipped: dict[str, str] = {}
    assert [case.name for case in independent_cases(cases, known, skipped)] == ["c"]
    assert "reference first" in skipped["a"]
    assert "reference second" in skipped["b"]
    with pytest.raises(InputError, match="is the reference first of the atlas"):
        independent_cases(cases, known)


def test_equal_names_give_a_warning_only(folders: tuple[Path, Path]) -> None:
    cases = find_cases(*folders)
    assert same_names(cases, ["b", "x"], "a reference of the atlas") == [
        "b has the name of a reference of the atlas: check that they are not the same patient."
    ]


def test_a_file_that_changes_during_the_experiment_is_noticed(folders: tuple[Path, Path]) -> None:
    case = find_cases(*folders)[0]
    case.check()
    case.label.write_bytes(b"another")
    with pytest.raises(InputError, match=r"labels/a\.nii\.gz: changed while the evaluation ran"):
        case.check()
