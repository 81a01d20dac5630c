"""Unusual files in a studies folder: upper-case suffixes are supported, and unsupported files are listed with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from medsam2_atlas.atlas import find_references
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli import app
from medsam2_atlas.cli.cases import annotated_cases
from medsam2_atlas.imaging.volume import read_labels, read_volume
from medsam2_atlas.storage import FINAL, StudyFolder, StudyStore
from medsam2_atlas.storage.unopened import unopened_studies
from series_files import write_series
from storage.test_store import SHAPE, ct, label, organ_in, write

DICOM = b"\0" * 128 + b"DICM" + b"\0" * 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ct(tmp_path / "studies", "a")
    return tmp_path / "studies"


@pytest.mark.parametrize("suffix", [".NII.GZ", ".NII", ".NRRD", ".MHA"])
def test_an_image_with_an_upper_case_suffix_is_a_study(folder: Path, tmp_path: Path, suffix: str) -> None:
    made = write(tmp_path / f"made{suffix.lower()}", np.arange(480, dtype=np.int16).reshape(SHAPE))
    shutil.copy(made, folder / f"B{suffix}")
    (folder / "labels/final").mkdir(parents=True)
    shutil.copy(label(tmp_path / f"l{suffix.lower()}", 6), folder / f"labels/final/B{suffix}")
    store = StudyStore(folder)
    store.audit()
    assert store.image("B").file == folder / f"B{suffix}"
    assert (read_volume(store.image("B").file).array == read_volume(folder / "a.nii.gz").array).all()
    assert read_labels(store.label("B", FINAL).file).array.max() == 6
    assert [(s.name, s.final is not None) for s in store.studies()] == [("B", True), ("a", False)]
    assert [files.name for files in annotated_cases(folder, {})] == ["B"]
    saved = store.save_label("B", FINAL, label(tmp_path / "new.nii.gz", 2)).label
    assert organ_in(saved.file) == 2
    assert [file.name for file in (folder / "labels/final").iterdir()] == ["B.nii.gz"]
    assert store.versions("B", FINAL)[0].file.endswith(suffix.lower())
    assert store.problems() == {}


def fill(folder: Path) -> None:
    for name in ("x.mhd", "x.raw", "y.nhdr", "y.raw.gz", "z.hdr", "z.img", "p.zip", "q.nrrd.gz", "m.Nii.gz", "t.tif"):
        (folder / name).write_bytes(b"x")
    for name in ("README.txt", "list.csv", "list.csv.gz", "meta.json", ".DS_Store", "Thumbs.db", "notes", ".hidden.mhd"):
        (folder / name).write_bytes(b"x" * 200)
    (folder / "empty").mkdir()
    (folder / "docs").mkdir()
    (folder / "docs/README.md").write_text("x")


REASONS = {
    "x.mhd": "has its header and its voxels in two files. Convert it",
    "y.nhdr": "has its header and its voxels in two files",
    "z.hdr": "has its header and its voxels in two files",
    "p.zip": "is an archive. Unpack it.",
    "q.nrrd.gz": "is packed. Unpack it.",
    "m.Nii.gz": "has a suffix that mixes lower and upper case. Rename it.",
    "t.tif": "is of a type without a reliable voxel grid",
}


def test_only_unsupported_files_are_listed_with_a_reason(folder: Path) -> None:
    fill(folder)
    problems = StudyStore(folder).problems()
    assert set(problems) == set(REASONS)
    for name, words in REASONS.items():
        assert problems[name]["image"].startswith(f"is not used: it {words}"), problems[name]
    assert list(StudyStore(folder).images()) == ["a"]
    for file in folder.iterdir():
        if file.name in REASONS:
            file.unlink()
    assert StudyStore(folder).problems().keys() == {"x.raw", "y.raw.gz", "z.img"}  # voxels without their header


def test_dicom_files_and_folders_of_any_layout_are_listed(folder: Path) -> None:
    series = folder / "series"
    files = write_series(series, sitk.GetImageFromArray(np.zeros((3, 4, 5), np.int16)))
    nested = folder / "patient" / "study" / "1.2.3"
    nested.mkdir(parents=True)
    shutil.copy(files[0], nested / "IM0001")
    (folder / "deep").mkdir()
    ct(folder / "deep", "ct")
    for name in ("IM0001", "IM0002", "1.2.840.113"):
        (folder / name).write_bytes(DICOM)
    (folder / "linked").symlink_to(series)
    problems = {name: wrong["image"] for name, wrong in StudyStore(folder).problems().items()}
    assert set(problems) == {"series", "patient", "deep", "1.2.840.113", "linked"}
    for name in ("series", "patient"):
        assert "is a folder of DICOM files. Convert each series" in problems[name]
    assert "is a folder that contains images. Move them up" in problems["deep"]
    assert "is the first of 3 DICOM files" in problems["1.2.840.113"]
    assert "is a link to a folder" in problems["linked"]


def test_unsupported_files_under_a_tag_are_listed(folder: Path) -> None:
    label(folder / "labels/final/a.nii.gz", 6)
    (folder / "labels/final/b.dcm").write_bytes(DICOM)
    (folder / "labels/final/notes.txt").write_bytes(b"x")
    store = StudyStore(folder)
    assert list(store.problems()) == ["labels/final/b.dcm"]
    assert "is a DICOM file" in store.problems()["labels/final/b.dcm"][FINAL]
    assert "is a DICOM file" in StudyFolder(folder).problems(FINAL)["b.dcm"]
    assert store.counts() == (1, {FINAL: 1})
    (folder / "labels/final/b.dcm").unlink()
    assert StudyStore(folder).problems() == {}


def test_commands_on_folders_list_unsupported_files(folder: Path, tmp_path: Path) -> None:
    label(folder / "labels/final/a.nii.gz", 6)
    fill(folder)
    skipped: dict[str, str] = {}
    assert [files.name for files in annotated_cases(folder, skipped)] == ["a"]
    assert set(skipped) == set(REASONS)
    pairs = tmp_path / "pairs"
    ct(pairs / "images", "A")
    (pairs / "images/A.nii.gz").rename(pairs / "images/A.NII.GZ")
    label(pairs / "labels/A.nrrd", 6)
    for name in ("B.mhd", "README.txt"):
        (pairs / "images" / name).write_bytes(b"x")
    skipped = {}
    assert [files.image.name for files in find_references(pairs, skipped)] == ["A.NII.GZ"]
    assert list(skipped) == ["images/B.mhd"]
    with pytest.raises(InputError, match=r"images/B\.mhd: is not used"):
        find_references(pairs)
    shown = CliRunner().invoke(app, ["labels", "check", str(folder)]).output
    assert "p.zip (image): is not used: it is an archive." in shown


def test_a_study_that_shares_its_name_with_its_dicom_folder_counts(folder: Path) -> None:
    label(folder / "labels/final/a.nii.gz", 6)
    (folder / "a").mkdir()
    (folder / "a/IM0001").write_bytes(DICOM)
    store, skipped = StudyStore(folder), dict[str, str]()
    assert "a folder of DICOM files" in store.problems()["a"]["note"]
    assert [(study.name, study.final is not None) for study in store.studies()] == [("a", True)]
    assert [files.name for files in annotated_cases(folder, skipped)] == ["a"]
    assert skipped == {}
    assert unopened_studies(StudyFolder(folder))[1] == {}
    (folder / "a.nii.gz").unlink()
    assert "a folder of DICOM files" in store.problems()["a"]["image"]
