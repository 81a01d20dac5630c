"""A verification finds damaged and missing files, reports no false findings, and writes only its own progress."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import SimpleITK as sitk

from archive.conftest import Installation
from archive.test_backup import contents
from medsam2_atlas.archive import (
    Place,
    Vault,
    Verification,
    back_up,
    journal,
    label_checks,
    verification,
    verify,
    verify_backup,
)
from medsam2_atlas.archive.journal import RUNNING
from medsam2_atlas.audit.entry import AuditEntry
from medsam2_atlas.audit.log import AuditLog
from medsam2_atlas.audit.reading import LineQuery, lines
from medsam2_atlas.base.errors import ConflictError
from medsam2_atlas.erasing import erase
from medsam2_atlas.storage import StudyStore
from storage.test_store import ct, label
from waiting import time_limit

VERSION = ".medsam2_atlas/versions/final/a/00001"
CURRENT = "labels/final/a.nii.gz"


def lost(found: Verification) -> dict[str, str]:
    return {finding.path: finding.problem for finding in found.findings if finding.lost}


def notes(found: Verification) -> dict[str, str]:
    return {finding.path: finding.problem for finding in found.findings if not finding.lost}


def test_sound_studies_have_no_findings(place: Place, folder: Path) -> None:
    before = contents(folder)
    found = verify(place)
    assert (found.findings, found.files) == ((), 13)
    assert contents(folder) == before
    assert "nii" not in (folder / ".medsam2_atlas/verified.jsonl").read_text(), (
        "the progress must not contain names of patients"
    )


def test_files_of_an_earlier_release_have_no_problems(installation: Installation) -> None:
    assert lost(verify(Place.existing(str(installation.studies)))) == {}
    assert lost(verify(Place.existing(installation.url))) == {}


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (f"{VERSION}.nii.gz", "has changed since it was saved"),
        (CURRENT, "is not version 3, the newest"),
        ("a.nii.gz", "is not the image that its label maps under atlas, final were drawn on"),
        ("b.nii.gz", ""),
    ],
)
def test_a_flipped_bit_is_found(place: Place, folder: Path, flip: Callable[[Path], None], path: str, problem: str) -> None:
    flip(folder / path)
    found = lost(verify(place))
    assert list(found) == ([path] if problem else []), "no checksum is recorded for an image without label maps"
    assert problem in found.get(path, "")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (f"{VERSION}.nii.gz", "is missing: the label map of version 1"),
        (CURRENT, "is missing: the current label map, version 3"),
        ("a.nii.gz", "is missing: the image of a study that has label maps"),
    ],
)
def test_a_missing_file_is_found(place: Place, folder: Path, path: str, problem: str) -> None:
    (folder / path).unlink()
    found = lost(verify(place))
    assert problem in "".join(found.values())
    assert len(found) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"number": 1}', "null", '{"number":2,"file":"x","sha256":"","origin":"person"}']
)
def test_a_broken_record_is_found(place: Place, folder: Path, text: str) -> None:
    (folder / f"{VERSION}.json").write_text(text)
    assert "readable record" in lost(verify(place))[f"{VERSION}.json"]


def test_no_record_leads_the_verification_out_of_its_folder(place: Place, folder: Path) -> None:
    record = json.loads((folder / f"{VERSION}.json").read_text())
    (folder / f"{VERSION}.json").write_text(json.dumps(record | {"file": "../../../../../etc/passwd"}))
    assert list(lost(verify(place))) == [f"{VERSION}.json"]


def test_rot_in_an_image_without_label_maps_is_found_by_the_index(place: Place, folder: Path) -> None:
    index = StudyStore(folder)
    index.image("b")
    file = index.index_file
    with sqlite3.connect(file) as base:
        base.execute("UPDATE images SET sha256 = ?, hashed = stamp WHERE study = 'b'", ("0" * 64,))
    base.close()
    assert "without having been written" in lost(verify(place))["b.nii.gz"]


def test_rot_since_the_last_verification_is_reported_every_time(place: Place, folder: Path) -> None:
    verify(place)
    known = folder / ".medsam2_atlas/verified.jsonl"
    lines = [json.loads(line) for line in known.read_text().splitlines()]
    digest = hashlib.sha256(b"b.nii.gz").hexdigest()[:32]
    changed = [[path, stamp, "0" * 64 if path == digest else checksum] for path, stamp, checksum in lines]
    known.write_text("".join(json.dumps(line) + "\n" for line in changed))
    for _ in range(2):
        assert list(lost(verify(place))) == ["b.nii.gz"]


def test_an_image_that_was_compressed_again_is_not_a_finding(place: Place, folder: Path) -> None:
    image = sitk.ReadImage(str(folder / "a.nii.gz"))
    (folder / "a.nii.gz").unlink()
    sitk.WriteImage(image, str(folder / "a.nrrd"), useCompression=False)
    assert lost(verify(place)) == {}


def test_a_label_map_that_another_program_put_there_is_noted(place: Place, folder: Path, tmp_path: Path) -> None:
    label(folder / "labels/final/b.nii.gz", 2)
    assert "not a version yet" in notes(verify(place))["labels/final/b.nii.gz"]
    assert lost(verify(place)) == {}


def test_removed_label_maps_are_not_a_finding(place: Place, folder: Path) -> None:
    StudyStore(folder).remove_label("a", "final")
    assert verify(place).findings == ()


def test_a_label_map_that_is_saved_meanwhile_is_not_a_finding(
    place: Place, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, original = StudyStore(folder), verification.list_place

    def then_saved(place: Place) -> object:
        listed = original(place)
        store.save_label("a", "final", label(tmp_path / "late.nrrd", 8))
        store.save_label("b", "final", label(tmp_path / "late.nrrd", 8))
        return listed

    monkeypatch.setattr(verification, "list_place", then_saved)
    assert verify(place).findings == ()


def test_a_study_that_is_removed_meanwhile_is_not_a_finding(
    place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, original = StudyStore(folder), verification.list_place

    def then_removed(place: Place) -> object:
        listed = original(place)
        store.remove_image("a")
        return listed

    monkeypatch.setattr(verification, "list_place", then_removed)
    assert verify(place).findings == ()


def test_damaged_atlas_weights_reports_and_measures_are_found(installation: Installation, flip: Callable[[Path], None]) -> None:
    place, work = Place.existing(str(installation.studies)), installation.studies / ".medsam2_atlas"
    before = lost(verify(place))
    current = work / "atlas/versions" / (work / "atlas/current").read_text().strip()
    flip(current / "maps.npz")
    flip(work / "unet_3d/best.pt")
    next((work / "reports/atlas").glob("*.json")).write_text("{")
    (work / "learning.sqlite").write_bytes(b"SQLite format 3\0" + b"\1" * 4096)
    found = set(lost(verify(place))) - set(before)
    assert len(found) == 4, found
    assert {Path(path).name for path in found} >= {"maps.npz", "best.pt", "learning.sqlite"}


def test_an_atlas_with_the_content_of_another_one_is_found(installation: Installation) -> None:
    place, work = Place.existing(str(installation.studies)), installation.studies / ".medsam2_atlas"
    versions = sorted((work / "atlas/versions").iterdir())
    assert len(versions) > 1
    shutil.copyfile(versions[0] / "maps.npz", versions[1] / "maps.npz")
    found = lost(verify(place))
    assert any(str(versions[1].name) in path for path in found)
    shutil.rmtree(work / "atlas/versions" / (work / "atlas/current").read_text().strip())
    assert "is missing" in lost(verify(place))[".medsam2_atlas/atlas/current"]


def test_interrupted_removals_and_leftover_files_are_noted(place: Place, folder: Path) -> None:
    work = folder / ".medsam2_atlas"
    for file in (work / "removed/x/removal.json", work / "unreadable/1.nii.gz", work / ".part-12345678.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
        os.utime(file, (1, 1))
    (folder / f"{VERSION}.json").rename(folder / ".medsam2_atlas/versions/final/a/aside.txt")
    found = verify(place)
    assert lost(found) == {}
    assert set(notes(found)) == {
        ".medsam2_atlas/removed/x/removal.json",
        ".medsam2_atlas/unreadable/1.nii.gz",
        ".medsam2_atlas/.part-12345678.json",
        ".medsam2_atlas/versions/final/a/aside.txt",
        f"{VERSION}.nii.gz",
    }


def test_a_stopped_verification_resumes(place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = verification.stream_sha256

    def counted(stream: object) -> str:
        read.append(1)
        if len(read) == 6:
            raise KeyboardInterrupt
        return original(stream)  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "stream_sha256", counted)
    with pytest.raises(KeyboardInterrupt):
        verify(place)
    (folder / ".medsam2_atlas/verifying.jsonl").open("a").write('["a.nii.gz", "cut')
    found = verify(place)
    assert (found.resumed, found.files, len(read)) == (5, 13, 6 + 8)
    assert verify(place).resumed == 0, "a complete run is not resumed"


def test_a_stopped_verification_can_be_started_over(place: Place, folder: Path, flip: Callable[[Path], None]) -> None:
    (folder / ".medsam2_atlas/verifying.jsonl").write_text('["a.nii.gz", "1", "2"]\n')
    state = (folder / f"{VERSION}.nii.gz").stat()
    flip(folder / f"{VERSION}.nii.gz")
    assert lost(verify(place))
    assert verify(place, again=True).resumed == 0
    assert state.st_size == (folder / f"{VERSION}.nii.gz").stat().st_size


def test_a_problem_found_before_a_stop_is_reported_after_it(
    place: Place, folder: Path, flip: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(folder / f"{VERSION}.nii.gz")
    with monkeypatch.context() as patched:
        patched.setattr(verification, "LabelChecks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            verify(place)
    found = verify(place)
    assert found.resumed == found.files
    assert list(lost(found)) == [f"{VERSION}.nii.gz"]


def test_two_verifications_of_one_folder_do_not_run_at_the_same_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def inner(*_: object) -> object:
        with pytest.raises(ConflictError, match="another process"):
            verify(place)
        raise KeyboardInterrupt

    monkeypatch.setattr(verification, "LabelChecks", inner)
    with pytest.raises(KeyboardInterrupt):
        verify(place)


def test_studies_that_cannot_be_written_are_verified(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        ct(tmp_path / "plain", name)
    found = verify(Place.existing(str(tmp_path / "plain")))
    assert (found.findings, found.files) == ((), 2)
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == ["a.nii.gz", "b.nii.gz"]
    assert list(state.rglob("verified.jsonl"))


def test_damaged_and_missing_contents_of_a_backup_are_found(place: Place, tmp_path: Path, flip: Callable[[Path], None]) -> None:
    dest = tmp_path / "dest"
    back_up(place, dest)
    assert verify_backup(dest).findings == ()
    vault = Vault.existing(dest)
    entries = vault.snapshot().entries
    damaged, missing = (vault.content(entries[path].sha256) for path in ("a.nii.gz", f"{VERSION}.nii.gz"))
    flip(damaged)
    missing.unlink()
    found = lost(verify_backup(dest))
    assert set(found) == {str(path.relative_to(dest)) for path in (damaged, missing)}
    damaged.unlink()
    back_up(place, dest)
    assert verify_backup(dest).sound


def test_an_image_is_compared_by_its_voxels_once(place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(label_checks, "same_image_as", lambda *_: bool(asked.append(1)))
    verify(place)
    assert asked == []
    image = sitk.GetImageFromArray(np.ones((6, 8, 10), np.int16))
    sitk.WriteImage(image, str(folder / "a.nii.gz"))
    verify(place)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "where",
    [
        "versions/final/a/00004.json",
        "images/a.json",
        "reports/atlas/a.json",
        "atlas/versions/1/atlas.json",
        "audit/audit-20200101-1.jsonl",
        "claims/x.json",
        "verified.jsonl",
    ],
)
def test_a_pipe_in_place_of_a_record_does_not_block_a_verification(place: Place, folder: Path, where: str) -> None:
    pipe = folder / ".medsam2_atlas" / where
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    with time_limit():
        StudyStore(folder).labels()
        verify(place)
        AuditLog(place.work).record(AuditEntry("label.save", study="a"))
        assert lines(place.work, LineQuery())
        erase(place, "b", "withdrawn")
    assert not (folder / "b.nii.gz").exists()


def test_a_full_disk_does_not_stop_a_verification(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def full(path: Path, flags: int, *mode: int) -> int:
        return opened(
            "/dev/full" if Path(path).name == RUNNING and flags & os.O_WRONLY else path, flags & ~os.O_NOFOLLOW, *mode
        )

    monkeypatch.setattr(os, "open", full)
    monkeypatch.setattr(journal, "replacing", no_space)
    assert verify(place).sound


def no_space(_: Path) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
