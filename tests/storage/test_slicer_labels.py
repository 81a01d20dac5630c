"""Segmentations of 3D Slicer in a studies folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from files.itk_files import written
from files.kind import LABELS
from files.slicer_files import segment, segmentation
from medsam2_atlas.base.errors import InputError, StorageError
from medsam2_atlas.cli import app
from medsam2_atlas.cli.cases import annotated_cases
from medsam2_atlas.imaging.volume import read_labels
from medsam2_atlas.storage import FINAL, StudyFolder, StudyStore

NAMES = segment("Liver", 1), segment("left kidney", 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a studies folder with the study `x`."""
    (tmp_path / "studies" / "labels" / FINAL).mkdir(parents=True)
    written("x.nii.gz")(tmp_path / "studies")
    return tmp_path / "studies"


def test_a_segmentation_that_a_person_copies_into_the_folder_is_the_label_of_its_study(folder: Path) -> None:
    file = segmentation(*NAMES, crop=True, name="x.seg.nrrd")(folder / "labels" / FINAL)
    (study,) = StudyFolder(folder).studies()
    assert (study.name, study.final) == ("x", file)
    assert [(files.name, files.label) for files in annotated_cases(folder, None)] == [("x", file)]
    store = StudyStore(folder)
    store.audit()
    label = store.label("x", FINAL)
    assert (label.file, label.version.organs, label.problem) == (file, (3, 6), "")
    kept = store.version_file("x", FINAL, 1)
    assert kept.name == "00001.seg.nrrd"
    assert kept.read_bytes() == file.read_bytes()
    assert (read_labels(kept, image=study.image).array == LABELS).all()


def test_a_segmentation_replaces_a_label_map_and_the_reverse(folder: Path, tmp_path: Path) -> None:
    store, nifti = StudyStore(folder), written("x.nii.gz", LABELS)(tmp_path)
    store.save_label("x", FINAL, segmentation(*NAMES, crop=True)(tmp_path))
    assert [file.name for file in (folder / "labels" / FINAL).iterdir()] == ["x.seg.nrrd"]
    store.save_label("x", FINAL, nifti)
    assert [file.name for file in (folder / "labels" / FINAL).iterdir()] == ["x.nii.gz"]
    store.restore_label("x", FINAL, 1)
    assert store.label("x", FINAL).file.name == "x.seg.nrrd"
    assert [version.organs for version in StudyStore(folder).versions("x", FINAL)] == [(3, 6)] * 3
    store.remove_label("x", FINAL)
    assert not list((folder / "labels" / FINAL).iterdir())


def test_overlaps_are_recorded_in_the_version(folder: Path, tmp_path: Path) -> None:
    layers = segment("Liver", 1, 0), segment("left kidney", 1, 1)
    file = segmentation(*layers, overlap=True)(tmp_path)
    remarks = ["'Liver' and 'left kidney' share 8 voxels, which are 'left kidney'."]
    store = StudyStore(folder)
    assert store.save_label("x", FINAL, file, info={"comment": "x"}).label.version.info == {"comment": "x", "remarks": remarks}
    shutil.copy(file, folder / "labels" / "second.seg.nrrd")
    (folder / "labels" / "second").mkdir()
    (folder / "labels" / "second.seg.nrrd").rename(folder / "labels" / "second" / "x.seg.nrrd")
    store.refresh()
    store.audit()
    assert store.label("x", "second").version.info["remarks"] == remarks


def test_a_segmentation_that_cannot_be_used_does_not_count_as_done(folder: Path) -> None:
    segmentation(segment("Liver", 1), segment("cyst", 2), name="x.seg.nrrd")(folder / "labels" / FINAL)
    store = StudyStore(folder)
    store.audit()
    assert "has segments that are not organs: 'cyst'" in store.problems()["x"][FINAL]
    ran = CliRunner().invoke(app, ["labels", "check", str(folder)])
    assert "not organs: 'cyst'" in " ".join(ran.output.split())


def test_a_segmentation_beside_the_cts_is_reported_and_not_a_study(folder: Path) -> None:
    segmentation(*NAMES, name="x.seg.nrrd")(folder)
    store = StudyStore(folder)
    assert list(store.images()) == ["x"]
    assert "x" not in store.problems()
    assert "is a segmentation, not a CT. Move it" in store.problems()["x.seg.nrrd"]["image"]
    skipped: dict[str, str] = {}
    with pytest.raises(InputError, match="no annotated CTs"):
        annotated_cases(folder, skipped)
    assert list(skipped) == ["x.seg.nrrd"]


def test_an_image_cannot_be_a_segmentation(folder: Path, tmp_path: Path) -> None:
    file, store = segmentation(*NAMES)(tmp_path), StudyStore(folder)
    with pytest.raises(InputError, match="is a segmentation, not a CT"):
        store.add_image("y", file)
    file = file.rename(tmp_path / "y.nrrd")
    with pytest.raises(InputError, match="is a segmentation from 3D Slicer, not a CT"):
        store.add_image("y", file)


def test_a_study_whose_name_ends_like_a_segmentation_keeps_its_own_labels(folder: Path, tmp_path: Path) -> None:
    store = StudyStore(folder)
    store.add_image("x.seg", folder / "x.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(written("l.nii.gz", LABELS)(tmp_path))), str(tmp_path / "l.nrrd"))
    with pytest.raises(StorageError, match=r"ends in \.seg"):
        store.save_label("x.seg", FINAL, tmp_path / "l.nrrd")
    store.save_label("x.seg", FINAL, tmp_path / "l.nii.gz")
    store.save_label("x", FINAL, segmentation(*NAMES)(tmp_path))
    assert {study: label[FINAL].file.name for study, label in store.labels().items()} == {
        "x": "x.seg.nrrd",
        "x.seg": "x.seg.nii.gz",
    }


def test_a_version_is_copied_with_its_suffix(folder: Path, tmp_path: Path) -> None:
    StudyStore(folder).save_label("x", FINAL, segmentation(*NAMES, crop=True)(tmp_path))
    ran = CliRunner().invoke(app, ["labels", "export", str(folder), "x", "1", str(tmp_path / "out.seg.nrrd")])
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "out.seg.nrrd").read_bytes() == (tmp_path / "labels.seg.nrrd").read_bytes()
