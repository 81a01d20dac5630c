"""A store of a server compares the stamps of all files in a thread, so that no caller waits for it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.storage import FINAL, StudyStore, reconcile
from storage.test_store import label, sweep_at_once
from waiting import until


@pytest.fixture
def store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> StudyStore:
    sweep_at_once(monkeypatch)
    opened = StudyStore(folder)
    opened.sweep_in_background()
    return opened


def test_a_slow_comparison_delays_no_caller_and_own_changes_are_seen_at_once(
    store: StudyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = label(tmp_path / "label.nii.gz", 6)
    store.save_label("b", FINAL, file)  # makes the folder
    store.images()
    threads, goes_on, real = set[str](), threading.Event(), reconcile.Reconciler._look

    def slow(*given: object, **options: object) -> None:
        threads.add(threading.current_thread().name)
        goes_on.wait(10)
        real(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reconcile.Reconciler, "_look", slow)
    store.images()
    saved = store.save_label("a", FINAL, file, author="kim").label
    assert store.labels()["a"][FINAL] == saved
    assert threads == {"stamps of the studies"}
    goes_on.set()


def test_a_file_that_was_overwritten_in_place_is_found_soon(store: StudyStore, folder: Path) -> None:
    file = label(folder / "labels" / FINAL / "a.nii.gz", 6)
    assert store.labels()["a"][FINAL].version.number == 1
    file.write_bytes(label(folder.parent / "other.nii.gz", 2).read_bytes())
    until(lambda: store.labels()["a"][FINAL].version.number == 2, 10, "the file was not found")


def test_callers_get_the_error_of_a_failed_comparison_until_one_succeeds(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> bool:
        try:
            store.images()
        except StorageError as error:
            return "cannot be read" in str(error)
        return False

    with monkeypatch.context() as broken:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(5, "Input/output error")

        broken.setattr(reconcile.Reconciler, "_look", refuse)
        until(fails, 10, "nobody was told")
    until(lambda: not fails(), 10, "the error stays")


def test_an_old_error_is_not_shown_to_the_first_caller_after_a_quiet_night(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    def failed() -> bool:
        try:
            store.images()
        except StorageError:
            return True
        return False

    with monkeypatch.context() as broken:
        broken.setattr(reconcile.Reconciler, "_look", refuse)
        until(failed, 10, "nobody was told")
    assert set(store.images()) == {"a", "b"}
