"""Existing studies can be read on a read-only or full disk."""

from __future__ import annotations

import errno
import gc
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from medsam2_atlas.active_learning import ScoreTable
from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.segmenters.base import Report, Segmentation
from medsam2_atlas.storage import FINAL, StudyStore
from medsam2_atlas.studies import PredictionStore
from storage.test_store import ct, label, organ_in


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yields a disk of one megabyte with two studies, `a` with a saved label and `b` without one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        for name in ("a", "b"):
            ct(place, name)
        StudyStore(place).save_label("a", FINAL, label(tmp_path / "x.nii.gz", 6), author="kim", info={"n": 1})
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def spoiled(disk: Path, how: str) -> Iterator[int]:
    """Makes the disk full or read-only for the duration of the block; yields the error number of writes."""
    gc.collect()  # closes removed files that a store still had open
    if how == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        yield errno.EROFS
        subprocess.run(["mount", "-o", "remount,rw,size=1m", disk], check=True)
    else:
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"x" * 4096)
        yield errno.ENOSPC
        filler.unlink()


def check_served(store: StudyStore, file: Path) -> None:
    assert list(store.images()) == ["a", "b"]
    assert {study: organ_in(tags[FINAL].file) for study, tags in store.labels().items()} == {"a": 6, "b": 3}
    assert store.label("a", FINAL).version.info == {"n": 1}
    assert store.label("b", FINAL).version.origin == "found"
    assert store.counts() == (2, {FINAL: 2})
    assert "stored as a version" in store.problems()["b"][FINAL]
    with pytest.raises(StorageError, match=r"Nothing was changed") as raised:
        store.save_label("a", FINAL, file)
    assert isinstance(raised.value.__cause__, OSError)
    with pytest.raises(StorageError):
        store.remove_label("a", FINAL)
    assert store.label("a", FINAL).version.number == 1


@pytest.mark.parametrize("index", ["kept", "lost"])
@pytest.mark.parametrize("how", ["read-only", "full"])
def test_a_disk_that_cannot_be_written_serves_existing_studies(disk: Path, tmp_path: Path, how: str, index: str) -> None:
    new = label(tmp_path / "y.nii.gz", 2)
    label(disk / "labels/final/b.nii.gz", 3)
    if index == "lost":
        (disk / ".medsam2_atlas/studies.sqlite").unlink()
    with spoiled(disk, how) as error:
        store = StudyStore(disk)
        check_served(store, new)
        assert {errno.EROFS: "Read-only", errno.ENOSPC: "No space"}[error] in store.writable()
    again = StudyStore(disk)
    assert again.writable() == ""
    assert again.label("b", FINAL).version.number == 1
    assert again.problems() == {}
    assert [version.origin for version in again.versions("b", FINAL)] == ["found"]


@pytest.mark.parametrize("how", ["read-only", "full"])
def test_a_disk_that_becomes_read_only_or_full_still_serves_studies(disk: Path, tmp_path: Path, how: str) -> None:
    store, new = StudyStore(disk), label(tmp_path / "y.nii.gz", 2)
    label(disk / "labels/final/b.nii.gz", 3)
    with spoiled(disk, how):
        check_served(store, new)
    assert store.save_label("a", FINAL, new).label.version.number == 2
    assert StudyStore(disk).label("a", FINAL).version.number == 2


def test_a_new_studies_folder_on_a_read_only_disk_can_be_opened(disk: Path) -> None:
    subprocess.run(["rm", "-r", disk / ".medsam2_atlas"], check=True)
    with spoiled(disk, "read-only"):
        store = StudyStore(disk)
        assert organ_in(store.labels()["a"][FINAL].file) == 6
        assert store.counts() == (2, {FINAL: 1})


@pytest.mark.parametrize("how", ["read-only", "full"])
def test_measures_and_predictions_do_not_fail_on_an_unwritable_disk(disk: Path, how: str) -> None:
    table = ScoreTable(disk / ".medsam2_atlas" / "learning.sqlite")
    table.put("a", "image", {}, None, "before")
    store = StudyStore(disk)
    predictions, image = PredictionStore(store.work, store), disk / "a.nii.gz"
    volume = read_volume(image)
    result = Segmentation(volume.with_array((volume.array > 200).astype("uint8")), Report())
    with spoiled(disk, how):
        table.put("b", "image", {}, None, "after")
        assert {study: row.problem for study, row in table.rows().items()} == {"a": "before", "b": "after"}
        assert set(ScoreTable(disk / ".medsam2_atlas" / "learning.sqlite").rows()) == {"a"}
        assert predictions.save("unet_3d", "a", image, {}, result) is None
    assert predictions.save("unet_3d", "a", image, {}, result) is not None


def test_the_store_reports_whether_labels_can_be_saved(disk: Path) -> None:
    store = StudyStore(disk)
    before = sorted(disk.rglob("*"))
    assert store.writable() == ""
    assert sorted(disk.rglob("*")) == before
