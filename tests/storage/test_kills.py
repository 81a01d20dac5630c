"""Kills, power cuts, full disks and simultaneous saves: acknowledged labels stay, and the folder can always be opened."""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medsam2_atlas.base.files import sha256
from medsam2_atlas.storage import StudyStore
from storage import writers
from storage.test_store import label, write

KILLS = 200
WITH_READER = 10
"""One in this many killed processes decodes the labels in a reader process, as a server does."""
STEPS = 16  # more than a save has, so that the last saves are not disturbed


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Returns a context whose processes start quickly and do not inherit the threads of this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medsam2_atlas.storage", "medsam2_atlas.imaging.image_reading"])
    return context


@pytest.fixture
def labels(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(3)
    return [write(tmp_path / f"{n}.nii.gz", generator.integers(0, 16, (6, 8, 10)).astype(np.uint8)) for n in range(3)]


def run(context: ForkServerContext, task: Any, *arguments: Any) -> list[Any]:
    """Returns the messages that a process sends until it ends or is killed."""
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=task, args=(*arguments, sending))
    process.start()
    sending.close()
    received = drain(receiving)
    process.join()
    return received


def drain(receiving: Connection) -> list[Any]:
    received = []
    while True:
        try:
            received.append(receiving.recv())
        except (EOFError, ConnectionResetError):
            return received


def check_index(folder: Path) -> None:
    with sqlite3.connect(folder / ".medsam2_atlas" / "studies.sqlite") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_kill_loses_no_acknowledged_label(processes: ForkServerContext, folder: Path, labels: list[Path]) -> None:
    generator, acknowledged = random.Random(5), 0
    left: set[Path] = set()
    in_writing, unacknowledged = 0, 0
    for kill in range(KILLS):
        receiving, sending = processes.Pipe(duplex=False)
        process = processes.Process(target=writers.save_forever, args=(folder, labels, kill % WITH_READER == 0, sending))
        process.start()
        sending.close()
        receiving.poll(20)  # the first label is saved: kill the process during the next one
        process.join(generator.uniform(0, 0.03))
        process.kill()
        received = drain(receiving)
        process.join()
        assert received
        acknowledged += len(received)
        parts = set(folder.rglob(".part-*"))
        in_writing += bool(parts - left)
        left |= parts
        store = StudyStore(folder)
        versions = {v.number: v.sha256 for v in store.versions("a", "final")}
        unacknowledged += max(versions) > received[-1][0]
        assert all(versions[number] == checksum for number, checksum in received), f"kill {kill}"
        current = store.label("a", "final")
        assert current.version.number == max(versions)
        assert sha256(current.file) == current.version.sha256
        if kill % 20 == 0:
            check_index(folder)
            assert all(sha256(store.version_file("a", "final", n)) == checksum for n, checksum in versions.items())
    assert len(StudyStore(folder).versions("a", "final")) >= acknowledged >= KILLS
    assert in_writing and unacknowledged, "no kill happened during the writing of a file, or between a record and its answer"


@pytest.mark.parametrize("index_lost", [False, True])
def test_a_power_cut_leaves_either_the_old_label_or_the_new_one(
    processes: ForkServerContext, folder: Path, labels: list[Path], index_lost: bool
) -> None:
    store = StudyStore(folder)
    outcomes = set()
    for step in range(1, STEPS + 1):
        before = store.save_label("a", "final", labels[step % 2], author=f"first {step}").label.version
        received = run(processes, writers.save_and_die_at, folder, labels[2], step)
        if index_lost:
            for file in (folder / ".medsam2_atlas").glob("studies.sqlite*"):
                file.unlink()
        store = StudyStore(folder)
        check_index(folder)
        now = store.label("a", "final")
        assert sha256(now.file) == now.version.sha256
        assert now.version.author in (before.author, "second")
        assert sha256(store.version_file("a", "final", before.number)) == before.sha256
        if received:
            assert now.version.author == "second"
        outcomes.add((bool(received), now.version.author == "second"))
    assert outcomes == {(False, False), (False, True), (True, True)}


def test_a_full_disk_changes_nothing(processes: ForkServerContext, folder: Path, labels: list[Path]) -> None:
    store = StudyStore(folder)
    outcomes = set()
    for step in range(1, STEPS + 1):
        before = store.save_label("a", "final", labels[step % 2], author=f"first {step}").label.version
        received = run(processes, writers.save_with_error_at, folder, labels[2], step)
        now = StudyStore(folder).label("a", "final")
        assert sha256(now.file) == now.version.sha256
        assert sha256(store.version_file("a", "final", before.number)) == before.sha256
        assert received == ["saved"] or "No space left" in received[0]
        outcomes.add(received == ["saved"])
        assert not list(folder.rglob(".part-*"))
    assert outcomes == {True, False}


def test_a_file_size_limit_is_reported_and_changes_nothing(processes: ForkServerContext, folder: Path, tmp_path: Path) -> None:
    store = StudyStore(folder)
    before = store.save_label("a", "final", label(tmp_path / "x.nii.gz", 6), author="first").label.version
    larger = write(tmp_path / "y.mha", np.ones((6, 8, 10), np.uint8))
    received = run(processes, writers.save_with_little_room, folder, larger, 200)
    assert "File too large" in received[0]
    assert StudyStore(folder).label("a", "final").version == before


def test_processes_that_save_at_the_same_time_lose_nothing(
    processes: ForkServerContext, folder: Path, labels: list[Path]
) -> None:
    jobs = [("a", "final"), ("a", "final"), ("a", "unet_3d"), ("b", "final")]
    running = [processes.Process(target=writers.save_some, args=(folder, study, tag, labels, 40)) for study, tag in jobs]
    for process in running:
        process.start()
    for process in running:
        process.join()
        assert process.exitcode == 0
    store = StudyStore(folder)
    assert [len(store.versions(*job)) for job in jobs] == [80, 80, 40, 40]
    assert [v.number for v in store.versions("a", "final")] == list(range(1, 81))
    for by_tag in store.labels().values():
        for current in by_tag.values():
            assert sha256(current.file) == current.version.sha256
    check_index(folder)
