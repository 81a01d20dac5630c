"""Decodes files from outside in reader processes, one pool per process. Other modules use only these functions."""

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
"""Min speed in bytes of voxels per second. A slower reader counts as hanging, even if the limits allow more time."""
_OPEN_FILES = 65_536
_ALIVE_SECONDS = 10.0

_lock = threading.Lock()
_pool: ReaderPool | None = None
_limits = DecodingLimits()
_unreadable = Unreadable()


def configure(limits: DecodingLimits, memory: Path | None = None) -> None:
    """Sets the limits, and starts the readers before the first file needs them.

    Args:
        limits: the limits for all files from now on.
        memory: a file that stores the list of files that ended their readers; None to forget the list at the end.
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
    """Returns the reason why readers do not work; empty if a reader answers within ten seconds, or if all are busy."""
    try:
        _readers().run("alive", {}, _ALIVE_SECONDS, patience=1.0)
    except UnavailableError:
        return ""  # a busy reader is replaced if it exceeds its time
    except (ReaderDiedError, MedSAM2AtlasError, OSError) as error:
        return f"No reader process works: {error}"
    return ""


def unreadable() -> dict[Path, str]:
    """Returns the files that ended their readers and are not decoded again until they change, with the reason."""
    return _unreadable.all()


def run_task(task: str, subject: Path | None = None, **arguments: Any) -> tuple[dict[str, Any], tuple[np.ndarray, ...]]:
    """Runs a task on a file in a reader process.

    Args:
        task: name of the task, one of `tasks.TASKS`.
        subject: the file or folder that the task decodes. Errors name it, and it is recorded if it ends its reader.
        arguments: arguments of the task's function; paths are strings.

    Returns:
        The result of the function: a dictionary, and arrays of the shapes that the task states; the caller may change them.

    Raises:
        UnreadableFileError: the file killed its reader, took too much time or memory, or has done so before.
        MedSAM2AtlasError: the task raised this error.
        StorageError: no reader process starts.
        UnavailableError: all readers are busy, and too many callers wait for one already.
        OSError: the task raised this error, for example for a missing file.
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
    """Returns the error that a reader sent as JSON."""
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
    """Raises the max number of open files of this process: each decoded image needs one while it is used."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if 0 <= soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


def _close() -> None:
    global _pool
    if _pool is not None and _pool.usable:
        _pool.close()
    _pool = None


def _size(path: Path) -> int:
    """Returns the unpacked size of a file, or of the files in a folder, in bytes; 0 if it is unknown."""
    try:
        if path.is_dir() or is_dicom(path):
            return sum(size for _, size, _ in file_states(path))
        if path.suffix == ".zip":
            return 4 * path.stat().st_size
        return max(path.stat().st_size, checked_header(path).data_bytes)
    except (OSError, InputError):
        return 0


atexit.register(shutdown)
