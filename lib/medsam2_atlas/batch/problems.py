"""Distinguishes problems of a case that may pass from those that repeat with every attempt."""

from __future__ import annotations

import errno
import re

from medsam2_atlas.base.errors import StorageError, UnavailableError, problem_of

_PASSING = (errno.EAGAIN, errno.EBUSY, errno.ECONNRESET, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
_PASSING_NETWORK = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EPIPE, errno.ETIMEDOUT)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_MEMORY_WORDS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")
_SERVER_ERROR = re.compile(r"\banswers 5\d\d\b")
_MAX_LENGTH = 1000


def is_passing(error: BaseException) -> bool:
    """Returns whether a later attempt may succeed: a PACS or a disk does not answer, or memory was short."""
    for one in _chain(error):
        if isinstance(one, (UnavailableError, MemoryError, ConnectionError, TimeoutError)):
            return True
        if isinstance(one, StorageError) and one.subject == "PACS" and _SERVER_ERROR.search(one.problem):
            return True
        if isinstance(one, OSError) and one.errno in (*_PASSING, *_PASSING_NETWORK):
            return True
        if isinstance(one, RuntimeError) and any(words in str(one).lower() for words in _MEMORY_WORDS):
            return True
    return False


def is_disk_full(error: BaseException) -> bool:
    """Returns whether an error or one of its causes means that the disk is full. It stops the batch: all cases would fail."""
    return any(isinstance(one, OSError) and one.errno in _FULL for one in _chain(error))


def reason_of(error: BaseException) -> str:
    """Returns the reason of a failure for the manifest, in one line of limited length."""
    return " ".join(problem_of(error).split())[:_MAX_LENGTH]


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found
