"""Refuses an erasure while a server's work process may have the study in memory, and blocks trainings during an erasure."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from medsam2_atlas.base.errors import ConflictError, StorageError
from medsam2_atlas.base.files import opened

_CLAIMS = "claims"
_TRAINING = "train.json"
"""The file that a training locks. Other work processes lock files of their own; see the app's `tasks/claims.py`."""


@contextmanager
def no_work_runs(work: Path) -> Iterator[None]:
    """Checks that no work process and no batch runs. Blocks trainings and batches for the duration of the block.

    Args:
        work: the work folder of the studies.

    Raises:
        ConflictError: a training, a scoring or a batch is running.
        StorageError: the folder cannot be written.
    """
    folder = work / _CLAIMS
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            training = stack.enter_context(open(folder / _TRAINING, "a", opener=_opened_at_once))
        except OSError as error:
            problem = f"cannot be written ({error.strerror}), so nothing is erased."
            raise StorageError(work, problem, "Run this as the server's user, on a disk that can be written.") from error
        _take(training.fileno())
        for file in folder.glob("*.json"):
            if file.name != _TRAINING and file.is_file():
                with suppress(FileNotFoundError), opened(file) as stream:
                    _take(stream.fileno())
        for file in (work / "batch").glob("*/.batch/lock"):  # held, because a batch writes its manifest; see `batch.place`
            with suppress(FileNotFoundError):
                _take(stack.enter_context(opened(file)).fileno())
        yield


def _opened_at_once(path: str, flags: int) -> int:
    """Opens a file without waiting, even if it is a pipe."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def _take(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConflictError(
            "the study",
            "is not erased while anything runs a training, a scoring or a batch.",
            "Wait until it ends, or stop it.",
        ) from None
    except OSError:  # the network drive supports no locks
        return
