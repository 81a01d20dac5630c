"""Distinguishes problems of a case that may pass from those that repeat with every attempt."""

from __future__ import annotations

import errno
import re
import sqlite3

from medsam2_atlas.base.errors import StorageError, UnavailableError, problem_of

_AWAY = (
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ESHUTDOWN),
)
"""A network drive or a server does not answer."""
_PASSING = (
    *(errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR),
    # A CT was there when the batch was planned. A drive may not be mounted, or not show its newest files everywhere.
    *(errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.EACCES, errno.EPERM),
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_MEMORY_WORDS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")
_PASSING_STATUS = re.compile(r"\banswers (5\d\d|401|403|408|429)\b")
"""Statuses of a PACS that say nothing about a series: an error, a refused user, a time limit, too many requests."""
_MAX_LENGTH = 1000


def is_passing(error: BaseException) -> bool:
    """Returns whether a later attempt may succeed: a PACS or a disk does not answer, or memory was short."""
    if is_away(error):
        return True
    for one in _chain(error):
        if isinstance(one, MemoryError) or (isinstance(one, OSError) and one.errno in _PASSING):
            return True
        if isinstance(one, sqlite3.OperationalError):  # the index of a studies folder is locked
            return True
        if isinstance(one, RuntimeError) and any(words in str(one).lower() for words in _MEMORY_WORDS):
            return True
    return False


def is_away(error: BaseException) -> bool:
    """Returns whether a PACS or a network drive does not answer. New cases would meet the same problem."""
    for one in _chain(error):
        if isinstance(one, (UnavailableError, ConnectionError, TimeoutError)):
            return True
        if isinstance(one, StorageError) and one.subject == "PACS" and _PASSING_STATUS.search(one.problem):
            return True
        if isinstance(one, OSError) and one.errno in _AWAY:
            return True
    return False


def is_disk_full(error: BaseException) -> bool:
    """Returns whether an error or one of its causes means that the disk is full. It stops the batch: all cases would fail."""
    return any(
        (isinstance(one, OSError) and one.errno in _FULL)
        or (isinstance(one, sqlite3.OperationalError) and "is full" in str(one))
        for one in _chain(error)
    )


def reason_of(error: BaseException) -> str:
    """Returns the reason of a failure for the manifest, in one line of limited length."""
    return " ".join(problem_of(error).split())[:_MAX_LENGTH]


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return found
