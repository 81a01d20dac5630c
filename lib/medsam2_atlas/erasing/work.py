"""Keeps trainings and other work processes of a server away while a study is erased: they may hold it in memory."""

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
"""File that a training holds locked, as other work processes do with files of their own; see the app's `tasks/claims.py`."""


@contextmanager
def no_work_runs(work: Path) -> Iterator[None]:
    """Holds the training's claim for as long as the block takes.

    Args:
        work: work folder of the studies.

    Raises:
        ConflictError: a training, a scoring or a batch runs.
        StorageError: the folder cannot be written to.
    """
    folder = work / _CLAIMS
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            training = stack.enter_context(open(folder / _TRAINING, "a", opener=_waiting_for_nobody))
        except OSError as error:
            problem = f"cannot be written to ({error.strerror}), so nothing is erased."
            raise StorageError(work, problem, "Erase it as the server's user, on a disk that can be written.") from error
        _take(training.fileno())
        for file in folder.glob("*.json"):
            if file.name != _TRAINING and file.is_file():
                with suppress(FileNotFoundError), opened(file) as stream:
                    _take(stream.fileno())
        yield


def _waiting_for_nobody(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def _take(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConflictError(
            "the server", "runs a training, a scoring or a batch, which may hold the study.", "Wait for it, or stop it."
        ) from None
    except OSError:  # a network disk without locks
        return
