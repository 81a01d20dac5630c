"""Replaced images of existing label maps, and several files of one name: both are reported, and people resolve them."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medsam2_atlas.base.errors import ConflictError, InputError, NotFoundError
from medsam2_atlas.imaging.volume import read_volume, write_volume
from medsam2_atlas.storage import FINAL, StudyStore, audit, fingerprints, scan
from storage.test_store import SHAPE, ct, label, organ_in, sweep_at_once, write

OTHER = np.arange(480, dtype=np.int16).reshape(SHAPE)[::-1]


@pytest.fixture
def store(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyStore:
    sweep_at_once(monkeypatch)
    store = StudyStore(folder)
    store.save_label("a", FINAL, label(tmp_path / "x.nii.gz", 6), author="kim")
    store.save_prediction("a", "unet_3d", label(tmp_path / "y.nii.gz", 2))
    return store


def finals(store: StudyStore) -> dict[str, bool]:
    return {study.name: study.final is not None for study in store.studies()}


def rewrite(folder: Path, how: str) -> None:
    """Writes the image of `a` again, with the same voxels on the same grid."""
    file = folder / "a.nii.gz"
    image = read_volume(file)
    if how == "touched":
        os.utime(file)
    elif how == "compressed less":
        file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), 1))
    elif how == "converted":
        file.unlink()
        write_volume(image, folder / "a.nrrd")
    else:
        turned = sitk.DICOMOrient(sitk.ReadImage(str(file)), "RAS")
        sitk.WriteImage(sitk.Cast(turned, sitk.sitkFloat32), str(file))


@pytest.mark.parametrize("how", ["touched", "compressed less", "converted", "turned"])
def test_an_image_that_is_written_again_stays_the_same_image(store: StudyStore, folder: Path, tmp_path: Path, how: str) -> None:
    before = (folder / "a.nii.gz").read_bytes()
    rewrite(folder, how)
    assert (folder / "a.nii.gz").exists() is (how != "converted")
    if how not in ("touched", "converted"):
        assert (folder / "a.nii.gz").read_bytes() != before
    assert store.label("a", FINAL).problem == ""
    assert store.labels()["a"]["unet_3d"].problem == ""
    assert finals(store) == {"a": True, "b": False}
    assert finals(StudyStore(folder)) == {"a": True, "b": False}
    store.restore_label("a", FINAL, 1)
    assert store.label("a", FINAL).problem == ""


def test_a_replaced_image_is_reported_with_a_remedy_and_its_labels_do_not_count(store: StudyStore, folder: Path) -> None:
    write(folder / "a.nii.gz", OTHER)
    problems = store.problems()["a"]
    assert problems[FINAL].startswith("belongs to another image: a.nii.gz, changed 20")
    assert "is not the one that version 1 was drawn on. Restore the previous image, save the label map again" in problems[FINAL]
    assert problems["unet_3d"].endswith("Restore the previous image, or run the model again.")
    assert store.label("a", FINAL).unsure
    assert finals(store) == {"a": False, "b": False}
    assert store.counts() == (2, {})
    assert organ_in(folder / "labels/final/a.nii.gz") == 6


def test_an_image_on_another_grid_is_another_image(store: StudyStore, folder: Path) -> None:
    write(folder / "a.nii.gz", np.arange(480, dtype=np.int16).reshape(SHAPE), spacing=2.1)
    assert "another image" in store.label("a", FINAL).problem
    store.audit()
    assert "another image" in store.label("a", FINAL).problem


def test_a_replaced_image_that_cannot_be_read_is_another_image(store: StudyStore, folder: Path) -> None:
    (folder / "a.nii.gz").write_bytes(b"\x1f\x8b no image")
    assert "another image" in store.label("a", FINAL).problem


def test_a_person_confirms_a_label_map_for_the_new_image(store: StudyStore, folder: Path) -> None:
    write(folder / "a.nii.gz", OTHER)
    made = store.confirm_label("a", FINAL, author="lee").label
    assert (made.problem, made.version.number, made.version.author) == ("", 2, "lee")
    assert made.version.info["confirmed"] == 1
    assert store.label("a", FINAL).problem == ""
    assert finals(StudyStore(folder)) == {"a": True, "b": False}
    write(folder / "a.nii.gz", OTHER, spacing=2.1)
    with pytest.raises(InputError):
        store.confirm_label("a", FINAL)


def test_a_replaced_image_is_noticed_after_the_index_was_lost(store: StudyStore, folder: Path) -> None:
    write(folder / "a.nii.gz", OTHER)
    (folder / ".medsam2_atlas/studies.sqlite").unlink()
    assert "another image" in StudyStore(folder).label("a", FINAL).problem


def test_label_maps_of_earlier_releases_cause_no_warning(store: StudyStore, folder: Path) -> None:
    for file in (folder / ".medsam2_atlas/fingerprints").iterdir():
        file.unlink()
    again = StudyStore(folder)
    assert finals(again) == {"a": True, "b": False}
    again.audit()  # an upgraded server does this soon after its start
    rewrite(folder, "turned")
    assert again.label("a", FINAL).problem == ""


def test_a_found_label_belongs_to_the_image_that_it_was_checked_with(store: StudyStore, folder: Path) -> None:
    label(folder / "labels/final/b.nii.gz", 6)
    store.audit()
    write(folder / "b.nii.gz", OTHER)
    assert "another image" in store.label("b", FINAL).problem


def twin(folder: Path, array: np.ndarray) -> None:
    write(folder / "a.nrrd", array)


def test_two_different_images_of_one_name_are_reported_and_neither_is_used(
    store: StudyStore, folder: Path, tmp_path: Path
) -> None:
    before = (folder / "a.nii.gz").read_bytes()
    twin(folder, OTHER)
    problems = store.problems()["a"]["image"]
    assert "2 files, a.nii.gz and a.nrrd: they are different images. None of them is used." in problems
    assert sorted(store.images()) == ["b"]
    assert "a" not in store.labels()
    assert finals(store) == {"b": False}
    with pytest.raises(NotFoundError, match=r"a\.nii\.gz and a\.nrrd"):
        store.image("a")
    with pytest.raises(NotFoundError, match="different images"):
        store.save_label("a", FINAL, label(tmp_path / "z.nii.gz", 3))
    with pytest.raises(ConflictError, match="different images"):
        store.add_image("a", folder / "b.nii.gz")
    assert (folder / "a.nii.gz").read_bytes() == before
    (folder / "a.nrrd").rename(folder / "c.nrrd")
    assert finals(store) == {"a": True, "b": False, "c": False}
    assert store.problems() == {}
    (folder / "a.nii.gz").rename(folder / "d.nii.gz")
    (folder / "c.nrrd").rename(folder / "a.nrrd")
    assert "another image" in store.label("a", FINAL).problem


def test_two_files_of_one_image_are_reported_and_one_is_used(store: StudyStore, folder: Path) -> None:
    twin(folder, np.arange(480, dtype=np.int16).reshape(SHAPE))
    assert "2 files of the same image, a.nii.gz and a.nrrd; a.nrrd is used" in store.problems()["a"]["note"]
    assert store.image("a").file == folder / "a.nrrd"
    assert finals(store) == {"a": True, "b": False}
    assert finals(StudyStore(folder)) == {"a": True, "b": False}
    twin(folder, OTHER)
    assert "different images" in store.problems()["a"]["image"]
    (folder / "a.nrrd").unlink()
    assert store.problems() == {}


def test_a_second_file_of_a_study_that_cannot_be_read_is_reported(store: StudyStore, folder: Path) -> None:
    (folder / "a.nrrd").write_bytes(b"no image")
    assert "they cannot be compared, since a.nrrd" in store.problems()["a"]["image"]
    assert list(store.images()) == ["b"]


def test_two_different_label_files_under_one_tag_are_both_kept_and_neither_counts(folder: Path) -> None:
    label(folder / "labels/final/a.nii.gz", 6)
    label(folder / "labels/final/a.nrrd", 2)
    os.utime(folder / "labels/final/a.nii.gz", (1, 1))
    store = StudyStore(folder)
    store.audit()
    assert "was found in several files: a.nii.gz had different content" in store.problems()["a"][FINAL]
    assert finals(store) == {"a": False, "b": False}
    assert [organ_in(store.version_file("a", FINAL, number)) for number in (1, 2)] == [6, 2]
    (folder / ".medsam2_atlas/studies.sqlite").unlink()
    assert "was found in several files" in store.label("a", FINAL).problem
    store.restore_label("a", FINAL, 1)
    assert finals(store) == {"a": True, "b": False}
    assert organ_in(store.label("a", FINAL).file) == 6


def test_two_label_files_with_the_same_voxels_count(folder: Path) -> None:
    label(folder / "labels/final/a.nii.gz", 6)
    label(folder / "labels/final/a.nrrd", 6)
    store = StudyStore(folder)
    assert "was found in several files" in store.label("a", FINAL).problem
    store.audit()
    assert store.label("a", FINAL).problem == ""
    assert finals(StudyStore(folder)) == {"a": True, "b": False}


def test_a_full_check_compares_all_studies_with_two_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_BUDGET_SECONDS", -1.0)  # one image at a time
    for name in ("a", "b", "c", "d"):
        ct(folder, name)
        write(folder / f"{name}.mha", np.arange(480, dtype=np.int16).reshape(SHAPE))
    store = StudyStore(folder)
    assert len(store.images()) == 1
    store.audit()
    assert len(store.images()) == 4


def test_another_image_that_follows_a_missing_one_is_noticed_at_once(store: StudyStore, folder: Path) -> None:
    previous = (folder / "a.nii.gz").rename(folder.parent / "previous.nii.gz")
    assert "a" not in store.images()
    write(folder / "a.nii.gz", OTHER)
    assert finals(store) == {"a": False, "b": False}
    previous.replace(folder / "a.nii.gz")
    assert finals(store) == {"a": True, "b": False}
    twin(folder, OTHER)
    assert "different images" in store.problems()["a"]["image"]
    (folder / "a.nii.gz").unlink()
    assert finals(store) == {"a": False, "b": False}


def test_a_note_does_not_hide_that_an_image_cannot_be_read(
    store: StudyStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin(folder, np.arange(480, dtype=np.int16).reshape(SHAPE))
    assert "note" in store.problems()["a"]
    monkeypatch.setattr(scan, "readable", lambda file: file.name != "a.nrrd")
    store.refresh(thorough=True)
    assert "Permission denied" in store.problems()["a"]["image"]


def test_all_files_of_an_image_are_removed_together(store: StudyStore, folder: Path) -> None:
    twin(folder, np.arange(480, dtype=np.int16).reshape(SHAPE))
    assert finals(store) == {"a": True, "b": False}
    aside = store.remove_image("a")
    assert finals(store) == {"b": False}
    assert {"a.nii.gz", "a.nrrd"} <= {file.name for file in aside.iterdir()}


def test_images_are_not_decoded_repeatedly_if_fingerprints_cannot_be_stored(
    store: StudyStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "b.nii.gz", OTHER)
    store.save_label("b", FINAL, label(tmp_path / "z.nii.gz", 6))
    for file in (folder / ".medsam2_atlas/fingerprints").iterdir():
        file.unlink()
    decoded = []

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def counted(file: Path) -> fingerprints.Fingerprint:
        decoded.append(file.name)
        return fingerprint(file)

    fingerprint = fingerprints.fingerprint
    monkeypatch.setattr(fingerprints, "fingerprint", counted)
    with monkeypatch.context() as full:
        full.setattr(fingerprints, "write_safely", no_room)
        store.audit()
        assert decoded == ["a.nii.gz"]
    store.audit()
    store.audit()
    assert decoded == ["a.nii.gz", "a.nii.gz", "b.nii.gz"]


def test_a_models_label_map_cannot_be_confirmed(store: StudyStore) -> None:
    with pytest.raises(InputError, match="a model's label map under unet_3d"):
        store.confirm_label("a", "unet_3d", author="kim")
    assert store.label("a", "unet_3d").version.origin == "model"
