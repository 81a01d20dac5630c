"""What a verification finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that should be known of a file. path: below the folder. lost: whether content is lost, damaged or in doubt."""

    path: str
    problem: str
    remedy: str = ""
    lost: bool = True


FROM_BACKUP = "Restore it from a backup."
