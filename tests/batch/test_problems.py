"""Problems of a case: which may pass, which stop new cases, and which stop the batch."""

from __future__ import annotations

import errno
import sqlite3

import pytest

from medsam2_atlas.base.errors import InputError, StorageError, UnavailableError
from medsam2_atlas.batch.problems import is_away, is_disk_full, is_passing


def caused_by(cause: BaseException) -> Exception:
    try:
        raise InputError("ct.nii.gz", "cannot be read.") from cause
    except InputError as error:
        return error


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (OSError(errno.ENOENT, "No such file or directory"), False),  # a drive is not mounted
        (OSError(errno.EACCES, "Permission denied"), False),
        (OSError(errno.ENOTCONN, "Transport endpoint is not connected"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (UnavailableError("PACS", "does not answer."), True),
        *((StorageError("PACS", f"answers {status} X to GET series."), True) for status in (401, 403, 408, 429, 500, 503)),
        (MemoryError(), False),
        (RuntimeError("CUDA out of memory."), False),
        (sqlite3.OperationalError("database is locked"), False),
    ],
)
def test_problems_of_the_surroundings_may_pass_and_only_some_concern_other_cases(error: Exception, away: bool) -> None:
    for one in (error, caused_by(error)):
        assert is_passing(one) and is_away(one) == away and not is_disk_full(one)


@pytest.mark.parametrize(
    "error",
    [
        InputError("ct.nii.gz", "is not an image."),
        StorageError("PACS", "answers 404 Not Found to GET series/1.500.2."),
        OSError(errno.EINVAL, "not a regular file"),
        ValueError("x"),
    ],
)
def test_problems_of_a_case_last(error: Exception) -> None:
    assert not is_passing(error) and not is_away(error) and not is_disk_full(error)


def test_an_error_that_was_handled_does_not_count() -> None:
    try:
        try:
            raise FileNotFoundError(errno.ENOENT, "no header file")
        except FileNotFoundError:
            raise InputError("ct.nii.gz", "is damaged.") from None
    except InputError as error:
        assert not is_passing(error)


@pytest.mark.parametrize("error", [OSError(errno.EDQUOT, "x"), sqlite3.OperationalError("database or disk is full")])
def test_a_full_disk_is_recognized(error: Exception) -> None:
    assert is_disk_full(caused_by(error))
