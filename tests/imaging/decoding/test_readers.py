"""A bad file can end its reader process, but nothing else."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk

from medsam2_atlas.base.errors import InputError, StorageError, UnavailableError
from medsam2_atlas.imaging.decoding import (
    DecodingLimits,
    UnreadableFileError,
    alive,
    configure,
    pool,
    run_task,
    shutdown,
    unreadable,
)
from medsam2_atlas.imaging.decoding.tasks import TASKS
from medsam2_atlas.imaging.volume import read_grid, read_labels, read_volume


@pytest.fixture
def readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Starts readers that can also run the tasks of `misbehaving`; yields the file that lists unreadable files."""
    monkeypatch.setattr(pool, "_PROGRAM", "imaging.decoding.misbehaving")
    yield tmp_path / "unreadable.json"
    monkeypatch.undo()
    configure(DecodingLimits())


def image(file: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray((np.arange(480) % 16).astype(np.uint8).reshape(6, 8, 10)), str(file))
    return file


def children() -> set[int]:
    """Returns the reader processes of this process."""
    return {p.pid for p in psutil.Process().children() if "medsam2_atlas.imaging.decoding.worker" in p.cmdline()}


def test_the_caller_owns_the_arrays(tmp_path: Path) -> None:
    volume = read_volume(image(tmp_path / "x.nii.gz"))
    assert volume.array.flags.writeable
    volume.array[:] = 7
    assert read_volume(tmp_path / "x.nii.gz").array.max() == 15
    assert read_labels(tmp_path / "x.nii.gz", volume).array.dtype == np.uint8
    assert read_grid(tmp_path / "x.nii.gz") == volume.geometry
    assert read_volume(tmp_path / "x.nii.gz").file_geometry == volume.file_geometry


@pytest.mark.parametrize("task", ["crash", "spin", "nonsense"])
def test_a_file_that_ends_its_reader_is_remembered_until_it_changes(
    tmp_path: Path, readers: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_BUSY_SHARE", 0.1)  # other tests may use the processor too
    file = image(tmp_path / "bad.nii")
    configure(DecodingLimits(seconds=2 if task == "spin" else 20), readers)
    with pytest.raises(UnreadableFileError, match=r"bad\.nii.*when its file changes"):
        run_task(f"test_{task}", file, path=str(file))
    assert list(unreadable()) == [file]
    began = time.monotonic()
    with pytest.raises(UnreadableFileError, match="has not changed since"):
        read_volume(file)
    assert time.monotonic() - began < 0.5
    configure(DecodingLimits(), readers)  # a restart, which reads the list of the last run
    with pytest.raises(UnreadableFileError, match="has not changed since"):
        read_volume(file)
    os.utime(file, (1, 1))
    assert not unreadable()
    assert read_volume(file).array.max() == 15
    assert read_volume(image(tmp_path / "good.nii")).array.max() == 15


@pytest.mark.parametrize("task", ["hang", "fill", "killed"])
def test_a_file_that_may_not_be_the_cause_is_tried_again_later(
    tmp_path: Path, readers: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = image(tmp_path / "honest.nii")
    configure(DecodingLimits(seconds=1 if task == "hang" else 20, memory_mb=1500), readers)
    now = time.time()
    for failures, pause in ((1, 60), (2, 240)):
        with pytest.raises(UnreadableFileError, match="tried again after"):
            run_task(f"test_{task}", file, path=str(file))
        with pytest.raises(UnreadableFileError, match="has not changed since"):
            read_volume(file)
        now += pause + 30
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert not unreadable(), failures
    if task == "fill":
        assert read_volume(file).array.max() == 15
    with pytest.raises(UnreadableFileError, match="when its file changes"):
        run_task(f"test_{task}", file, path=str(file))


def test_callers_wait_for_readers_only_for_a_limited_time(
    tmp_path: Path, readers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_MAX_WAITING", 3)
    configure(DecodingLimits(processes=1, seconds=3), readers)
    files = [image(tmp_path / f"{n}.nii") for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(run_task, "test_hang", file, path=str(file)) for file in files[:7]]
        time.sleep(0.5)
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="all busy"):
            read_volume(files[7])
        assert time.monotonic() - began < 0.5
        assert alive() == ""  # busy readers count as working
        assert time.monotonic() - began < 2
        shutdown()
        kinds = {type(call.exception()) for call in calls}
    assert kinds <= {UnavailableError, UnreadableFileError, StorageError}


def test_writes_of_a_forked_child_do_not_reach_the_parents_image(tmp_path: Path) -> None:
    volume = read_volume(image(tmp_path / "x.nii"))
    pid = os.fork()
    if pid == 0:
        volume.array[:] = 99
        os._exit(0)
    os.waitpid(pid, 0)
    assert volume.array.max() == 15


def test_an_unforeseen_error_is_reported_as_a_problem_of_the_file(tmp_path: Path, readers: Path) -> None:
    configure(DecodingLimits(), readers)
    with pytest.raises(InputError, match=r"x\.nii: cannot be read \(ZeroDivisionError"):
        run_task("test_divide", image(tmp_path / "x.nii"), path="x")
    assert not readers.exists()


def test_a_damaged_list_of_unreadable_files_is_replaced(tmp_path: Path, readers: Path) -> None:
    for content in ("{", "[1]", '{"a": 3}', json.dumps({"x": {"stamp": 1}})):
        readers.write_text(content)
        configure(DecodingLimits(), readers)
        assert read_volume(image(tmp_path / "x.nii")).array.max() == 15


def test_killed_readers_are_replaced(tmp_path: Path) -> None:
    file = image(tmp_path / "x.nii")
    read_volume(file)
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    assert read_volume(file).array.max() == 15
    assert alive() == ""


def test_a_reader_that_was_killed_before_it_was_ready_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    readers = pool.ReaderPool(DecodingLimits(processes=1))
    try:
        readers.start()
        starting = readers._idle[0]
        starting._process.kill()
        monkeypatch.setattr(type(starting), "alive", True)  # as if it was killed just after this check
        assert not readers.run("alive", {}, 60).problem
    finally:
        readers.close()


def test_many_threads_share_few_readers_and_none_is_left_running(tmp_path: Path) -> None:
    configure(DecodingLimits(processes=2))
    files = [image(tmp_path / f"{n}.nrrd") for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert {volume.array.max() for volume in pool.map(read_volume, files * 3)} == {15}
    assert len(children()) <= 2
    shutdown()
    deadline = time.monotonic() + 5
    while children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children()
    assert read_volume(files[0]).array.max() == 15


def test_a_forked_process_starts_its_own_readers(tmp_path: Path) -> None:
    read_volume(image(tmp_path / "x.nii"))
    before = threading.active_count()
    pid = os.fork()
    if pid == 0:  # in the child
        code = 1
        try:
            code = 0 if read_volume(tmp_path / "x.nii").array.max() == 15 else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert threading.active_count() == before


def test_only_listed_tasks_run() -> None:
    assert "volume" in TASKS
    with pytest.raises(InputError, match="KeyError"):
        run_task("os:system", None, command="true")


def test_a_long_error_does_not_count_as_the_end_of_a_reader(tmp_path: Path, readers: Path) -> None:
    configure(DecodingLimits(), readers)
    with pytest.raises(InputError, match="is wrong: x") as raised:
        run_task("test_complain", image(tmp_path / "x.nii"), path="x")
    assert not isinstance(raised.value, UnreadableFileError)
    assert not readers.exists()


@pytest.mark.parametrize("unread", [False, True])
def test_a_reader_whose_parent_was_killed_ends_silently(unread: bool) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [
        sys.executable,
        "-m",
        "medsam2_atlas.imaging.decoding.worker",
        str(theirs.fileno()),
        DecodingLimits().model_dump_json(),
    ]
    reader = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
    theirs.close()
    if not unread:
        assert ours.recv(64)
    ours.send(json.dumps({"task": "alive", "arguments": {}, "seconds": 5}).encode())
    ours.close()
    assert reader.communicate(timeout=60) == (None, b"")
    assert reader.returncode == 0
