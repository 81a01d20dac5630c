"""The review stage: models learn from a `final` label map only once a reviewer has accepted that very version.

Whether the stage is on is kept in the work folder (`review.json`), so that commands honour it as the server does. The
acceptance is kept in the version's record, out of reach of what clients send with a label map; each new version begins without
one.
Nobody accepts what they drew themselves: two people have looked at each label map that models learn from.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.base.errors import ConflictError, InputError, StorageError
from medsam2_atlas.base.files import text_of, write_json
from medsam2_atlas.storage.entries import Label
from medsam2_atlas.storage.folder import WorkFolder
from medsam2_atlas.storage.lineage import Version, now
from medsam2_atlas.storage.rows import LabelRow

log = logging.getLogger(__name__)

_FILE = "review.json"


@dataclass(frozen=True)
class Person:
    """Who accepts. name: for people to read. id: tells people apart; empty if unknown, as on the command line."""

    name: str
    id: str = ""


class ReviewStage:
    """Whether the review stage is on for a set of studies."""

    def __init__(self, work: WorkFolder) -> None:
        """
        Args:
            work: of the studies.
        """
        self._file = work.path / _FILE
        self._turned_on = False  # here; the file may be on a disk that cannot be written

    @property
    def on(self) -> bool:
        """Whether it is on; also if the file that says so cannot be read."""
        if self._turned_on:
            return True
        try:
            return bool(json.loads(text_of(self._file))["on"])
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("%s cannot be read (%s); only accepted label maps are learnt from", self._file, error)
            return True

    def turn(self, on: bool) -> None:
        """Turns it on or off; on a read-only or full disk, on for this process only."""
        if on != self.on:
            try:
                write_json({"on": on}, self._file)
            except (OSError, StorageError) as error:
                log.error("%s cannot be written (%s): commands do not know whether label maps are reviewed", self._file, error)
        self._turned_on = on


def held_back(label: Label, review: ReviewStage) -> str:
    """Returns why models do not learn from a label map; empty if they do."""
    if label.tag != FINAL:
        return f"is no {FINAL} label map."
    if label.problem:
        return label.problem
    if review.on and not label.version.accepted:
        return f"is signed off as version {label.version.number}, but no reviewer has accepted that version yet."
    return ""


def accepted(row: LabelRow, versions: Sequence[Version], number: int, person: Person) -> Version:
    """Returns the record of the current version with a reviewer's acceptance; the first acceptance stays.

    Args:
        row: the current label map.
        versions: all versions of it, rising.
        number: of the version that the reviewer has looked at.
        person: the reviewer.

    Raises:
        InputError: not a `final` label map, or the person has drawn it.
        ConflictError: another version is current, or it does not count.
    """
    version = row.version
    if row.tag != FINAL:
        raise InputError(row.study, f"has a label map under {row.tag}: only {FINAL} label maps are accepted.", "Name no tag.")
    if version.number != number:
        raise ConflictError(
            row.study, f"has version {version.number} under {FINAL} by now, not {number}.", "Look at it, and accept that one."
        )
    if row.problem:
        raise ConflictError(row.study, f"has a label map that does not count: {row.problem}", "Mend that first.")
    if _drew(person, next((old for old in versions if old.sha256 == version.sha256), version)):
        raise InputError(
            row.study, f"has a label map that {person.name} drew: nobody accepts their own.", "Ask another reviewer."
        )
    if version.accepted:
        return version
    return replace(version, accepted={"by": person.name, "by_id": person.id, "at": now()})


def _drew(person: Person, version: Version) -> bool:
    """Returns whether a version is a person's own: by the ids if both are known, else by the names."""
    if version.author_id and person.id:
        return version.author_id == person.id
    return bool(version.author) and version.author.casefold() == person.name.casefold()
