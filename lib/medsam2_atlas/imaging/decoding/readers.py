"""Decodes files from others in one pool of reader processes per process; other modules use only these functions."""

from __future__ import annotations

import atexit
import resource
import threading
from pathlib import Path
from typing import Any

import numpy as np

from medsam2_atlas.base import errors
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, StorageError, UnavailableError
from medsam2_atlas.imaging.decoding.check import checked_header, set_limits
from medsam2_atlas.imaging.decoding.limits import DecodingLimits
from medsam2_atlas.imaging.decoding.pool import ReaderDiedError, ReaderPool
from medsam2_atlas.imaging.decoding.sniff import is_dicom
from medsam2_atlas.imaging.decoding.tree import file_states
from medsam2_atlas.imaging.decoding.unreadable import Unreadable

_FIRST_SECONDS = 30.0
_BYTES_A_SECOND = 10e6
"""A reader that decodes fewer bytes of voxels a second hangs, whatever the limits allow."""
_OPEN_FILES = 65_536
_ALIVE_SECONDS = 10.0

_lock = threading.Lock()
_pool: ReaderPool | None = None
_limits = DecodingLimits()
_unreadable = Unreadable()


def configure(limits: DecodingLimits, memory: Path | None = None) -> None:
    """Sets the limits and starts the readers before the first file needs them.

    Args:
        limits: for all files from now on.
        memory: file that lists, across restarts, the files that ended their readers.
    """
    global _limits, _unreadable
    with _lock:
        _limits, _unreadable = limits, Unreadable(memory)
        set_limits(limits)
        _close()
    _readers().start()


def shutdown() -> None:
    """Ends the readers; the next file starts new ones."""
    with _lock:
        _close()


def alive() -> str:
    """Returns why readers don't work; empty if one answers within ten seconds, or if all are busy."""
    try:
        _readers().run("alive", {}, _ALIVE_SECONDS, patience=1.0)
    except UnavailableError:
        return ""  # busy ones are replaced if they exceed their time
    except (ReaderDiedError, MedSAM2AtlasError, OSError) as error:
        return f"No reader process works: {error}"
    return ""


def unreadable() -> dict[Path, str]:
    """Returns the files that ended their readers and have not changed since, with the reason; they are not tried again."""
    return _unreadable.all()


def run_task(task: str, subject: Path | None = None, **arguments: Any) -> tuple[dict[str, Any], tuple[np.ndarray, ...]]:
    """Runs a task on a file in a reader process.

    Args:
        task: one of `tasks.TASKS`.
        subject: the file or folder that the task decodes; errors name it, and it is recorded if it ends its reader.
        arguments: of the task's function; paths as strings.

    Returns:
        The function's result: a dictionary, and arrays that the caller owns and may change.

    Raises:
        UnreadableFileError: the file killed its reader, took too much time or memory, or has done so before.
        MedSAM2AtlasError: as the task raises it.
        StorageError: no reader process starts.
        UnavailableError: all readers are busy, and too many callers wait for one already.
        OSError: as the task raises it, such as a missing file.
    """
    name = subject if subject is not None else Path(task)
    _unreadable.check(name)
    seconds = min(_limits.seconds, _FIRST_SECONDS + _size(name) / _BYTES_A_SECOND)
    try:
        try:
            reply = _readers().run(task, arguments, seconds)
        except ReaderDiedError as error:
            if not error.killed:
                raise
            reply = _readers().run(task, arguments, seconds)  # the kernel may kill a reader when other processes use up memory
    except ReaderDiedError as error:
        raise _unreadable.add(name, error.how, lasting=error.lasting) from error
    if reply.problem.get("memory"):
        raise _unreadable.add(name, f"took more than {_limits.memory_mb} MB of memory to decode.", lasting=False)
    if reply.problem:
        raise _error(name, reply.problem)
    return reply.content, reply.arrays


def _error(subject: Path, problem: dict[str, Any]) -> Exception:
    """Returns the error that a reader sent."""
    if "error" in problem:
        about = {key: str(value) for key, value in problem["error"].items()}
        kind = getattr(errors, about["kind"], InputError)
        if kind not in (InputError, StorageError, errors.NotFoundError, errors.AtlasError):
            kind = InputError
        error: MedSAM2AtlasError = kind(about["subject"], about["problem"], about["remedy"])
        return error
    if "os_error" in problem:
        number, text = problem["os_error"]
        return OSError(int(number or 0), str(text))
    return InputError(subject, f"cannot be read ({problem.get('unforeseen', '')}).", "Export it again from its source.")


def _readers() -> ReaderPool:
    global _pool
    with _lock:
        if _pool is None or not _pool.usable:
            _raise_open_files()
            _pool = ReaderPool(_limits)
        return _pool


def _raise_open_files() -> None:
    """Raises the number of files that this process may have open: each decoded image holds one for as long as it is used."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _close() -> None:
    global _pool
    if _pool is not None and _pool.usable:
        _pool.close()
    _pool = None


def _size(path: Path) -> int:
    """Returns how many bytes a file, or the files in a folder, hold once they are unpacked; 0 if that cannot be told."""
    try:
        if path.is_dir() or is_dicom(path):
            return sum(size for _, size, _ in file_states(path))
        return max(path.stat().st_size, checked_header(path).data_bytes)
    except (OSError, InputError):
        return 0


atexit.register(shutdown)
