"""The findings of a verification."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A problem of a file.

    Attributes:
        path: the file's path relative to the verified folder.
        problem: the problem.
        remedy: how to solve the problem.
        lost: whether content is lost, damaged or in doubt.
    """

    path: str
    problem: str
    remedy: str = ""
    lost: bool = True


FROM_BACKUP = "Restore it from a backup."
