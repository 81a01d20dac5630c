"""An answer is true about the stored data, whichever step of a change fails."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medsam2_atlas.base.database import Database
from medsam2_atlas.base.errors import NotFoundError, StorageError
from medsam2_atlas.storage import FINAL, StudyStore
from medsam2_atlas.storage.rows import Writer
from storage.test_store import ct, label

STEPS = 22
CALLS = ("replace", "fsync", "unlink", "mkdir", "rename")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        ct(tmp_path / "studies", name)
    ct(tmp_path / "sent", "new")
    label(tmp_path / "first.nii.gz", 6)
    label(tmp_path / "second.nrrd", 2)
    StudyStore(tmp_path / "studies").save_label("a", FINAL, tmp_path / "first.nii.gz", author="first", info={"n": 1})
    return tmp_path / "studies"


@contextmanager
def failing_at(step: int) -> Iterator[list[str]]:
    """Makes only the n-th call that changes names or flushes fail with a full disk; yields the calls."""
    calls: list[str] = []
    originals = {name: getattr(os, name) for name in CALLS}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == step:
                raise OSError(errno.ENOSPC, "No space left on device")
            return originals[name](*args, **options)

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


@contextmanager
def index_failing(monkeypatch: pytest.MonkeyPatch, where: str) -> Iterator[None]:
    """Makes writing the index fail with a full disk: at a row, or at the commit of a change."""
    with monkeypatch.context() as patch:
        if where == "row":

            def full(*_: object) -> None:
                raise sqlite3.OperationalError("database or disk is full")

            for name in ("put_label", "put_image", "drop_label", "drop_image"):
                patch.setattr(Writer, name, full)
        else:
            original = Database.writing

            @contextmanager
            def writing(self: Database) -> Iterator[sqlite3.Connection]:
                with original(self) as database:
                    yield database
                    raise sqlite3.OperationalError("database or disk is full")

            patch.setattr(Database, "writing", writing)
        yield


def save(store: StudyStore, tmp_path: Path) -> None:
    store.save_label("a", FINAL, tmp_path / "second.nrrd", author="second")


def restore(store: StudyStore, tmp_path: Path) -> None:
    store.restore_label("a", FINAL, 1, author="second")


def remove(store: StudyStore, tmp_path: Path) -> None:
    store.remove_label("a", FINAL, author="second")


def describe(store: StudyStore, tmp_path: Path) -> None:
    store.update_label_info("a", FINAL, {"n": 2})


def describe_image(store: StudyStore, tmp_path: Path) -> None:
    store.update_image_info("a", {"n": 2})


def add(store: StudyStore, tmp_path: Path) -> None:
    store.add_image("new", tmp_path / "sent/new.nii.gz", {"n": 2})


def remove_image(store: StudyStore, tmp_path: Path) -> None:
    store.remove_image("a")


CHANGES = (save, restore, remove, describe, describe_image, add, remove_image)


def state(store: StudyStore) -> Any:
    """Returns all data of a folder that clients can read."""
    images = {study: dict(image.info) for study, image in store.images().items()}
    labels = {
        (study, tag): (found.version, found.problem, found.file.read_bytes())
        for study, tags in store.labels().items()
        for tag, found in tags.items()
    }
    try:
        versions = [(version.number, version.origin, version.author) for version in store.versions("a", FINAL)]
    except NotFoundError:
        versions = []
    return images, labels, versions


def plain(found: Any) -> Any:
    """Returns a state without the times of records."""
    images, labels, versions = found
    return (
        images,
        {key: (v.number, v.author, dict(v.info), problem, data) for key, (v, problem, data) in labels.items()},
        versions,
    )


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_full_disk_at_any_step_gets_a_true_answer(
    folder: Path, tmp_path: Path, change: Callable[[StudyStore, Path], None]
) -> None:
    shutil.copytree(folder, tmp_path / "kept", copy_function=shutil.copy2)
    outcomes = set()
    for step in range(1, STEPS + 1):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", folder, copy_function=shutil.copy2)
        store = StudyStore(folder)
        before = plain(state(store))
        try:
            with failing_at(step) as calls:
                change(store, tmp_path)
            done = True
        except StorageError as error:
            assert "No space left" in str(error)
            assert "Nothing was changed" in str(error)
            done = False
        after = plain(state(StudyStore(folder)))
        assert (after != before) == done, f"step {step} of {calls}"
        assert plain(state(store)) == after, f"step {step} of {calls}"
        assert not list(folder.rglob(".part-*")), f"step {step} of {calls}"
        outcomes.add(done)
        if len(calls) < step:
            break
    assert outcomes == {True, False}
    assert len(calls) < step, "a change has more steps than the test has tried"


@pytest.mark.parametrize("where", ["row", "commit"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_an_index_without_free_space_gets_a_true_answer(
    folder: Path, tmp_path: Path, change: Callable[[StudyStore, Path], None], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StudyStore(folder)
    before = plain(state(store))
    with index_failing(monkeypatch, where):
        try:
            change(store, tmp_path)
            done = True
        except StorageError:
            done = False
    seen = plain(state(store))
    assert seen == plain(state(StudyStore(folder)))
    assert (seen != before) == done


def test_a_removal_that_a_crash_interrupted_is_completed(folder: Path, tmp_path: Path) -> None:
    store = StudyStore(folder)
    image = (folder / "a.nii.gz").read_bytes()

    class Killed(BaseException):
        """Stands for the end of the process."""

    original, calls = os.replace, []

    def replace(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 3:  # after the plan and the image
            raise Killed
        original(*args)

    os.replace = replace  # type: ignore[assignment]
    try:
        with pytest.raises(Killed):
            store.remove_image("a")
    finally:
        os.replace = original
    again = StudyStore(folder)
    assert "a" not in again.images()
    assert not (folder / "labels/final/a.nii.gz").exists()
    assert not (folder / ".medsam2_atlas/versions/final/a").exists()
    assert {file.name for file in (folder / ".medsam2_atlas/removed").rglob("*") if file.is_file()} == {
        "a.nii.gz",
        "00001.nii.gz",
        "00001.json",
    }
    (folder / "a.nii.gz").write_bytes(image)
    assert StudyStore(folder).labels() == {}


def test_an_edit_is_not_lost_when_the_label_is_removed(folder: Path) -> None:
    store = StudyStore(folder)
    label(folder / "labels/final/a.nii.gz", 9)
    store.remove_label("a", FINAL)
    assert [version.origin for version in store.versions("a", FINAL)] == ["person", "found", "removed"]
