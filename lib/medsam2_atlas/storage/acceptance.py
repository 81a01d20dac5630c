"""The review stage: models learn from a version of a `final` label map only after a reviewer has accepted it.

`review.json` in the work folder records whether the stage is on, so that commands follow it as the server does. The acceptance
is stored in the version's record. Clients cannot change it with the information that they send with a label map. A new version
has no acceptance. Reviewers cannot accept their own label maps, so two people have seen each label map that models learn from.
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
    """A reviewer.

    Attributes:
        name: the name to display.
        id: a unique id, which distinguishes people of the same name; empty if unknown, as on the command line.
    """

    name: str
    id: str = ""


class ReviewStage:
    """The switch of the review stage for a set of studies.

    Args:
        work: the work folder of the studies.
    """

    def __init__(self, work: WorkFolder) -> None:
        self._file = work.path / _FILE
        self._turned_on = False  # in this process; the file may be on a read-only disk

    @property
    def on(self) -> bool:
        """Whether the stage is on; True if its file cannot be read."""
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
        """Turns the stage on or off. On a read-only or full disk, turning it on affects this process only."""
        if on != self.on:
            try:
                write_json({"on": on}, self._file)
            except (OSError, StorageError) as error:
                log.error("%s cannot be written (%s): commands do not know whether label maps are reviewed", self._file, error)
        self._turned_on = on


def held_back(label: Label, review: ReviewStage) -> str:
    """Returns why models do not learn from a label map, or an empty string if they do."""
    if label.tag != FINAL:
        return f"is not a {FINAL} label map."
    if label.problem:
        return label.problem
    if review.on and not label.version.accepted:
        return f"is signed off as version {label.version.number}, but no reviewer has accepted that version yet."
    return ""


def accepted(row: LabelRow, versions: Sequence[Version], number: int, person: Person) -> Version:
    """Returns the record of the current version with a reviewer's acceptance. An earlier acceptance is kept.

    Args:
        row: the current label map.
        versions: all its versions in ascending order.
        number: the number of the version that the reviewer has seen.
        person: the reviewer.

    Raises:
        InputError: the label map is not `final`, or the reviewer has drawn it.
        ConflictError: another version is current, or the label map has a problem.
    """
    version = row.version
    if row.tag != FINAL:
        raise InputError(
            row.study, f"has a label map under {row.tag}: only {FINAL} label maps can be accepted.", "Leave out the tag."
        )
    if version.number != number:
        raise ConflictError(
            row.study, f"now has version {version.number} under {FINAL}, not {number}.", "Check and accept the current version."
        )
    if row.problem:
        raise ConflictError(row.study, f"has a label map with a problem: {row.problem}", "Solve the problem first.")
    if _drew(person, next((old for old in versions if old.sha256 == version.sha256), version)):
        raise InputError(
            row.study, f"has a label map that {person.name} drew: reviewers cannot accept their own.", "Ask another reviewer."
        )
    if version.accepted:
        return version
    return replace(version, accepted={"by": person.name, "by_id": person.id, "at": now()})


def _drew(person: Person, version: Version) -> bool:
    """Returns whether a person drew a version: compares the ids if both are known, else the names."""
    if version.author_id and person.id:
        return version.author_id == person.id
    return bool(version.author) and version.author.casefold() == person.name.casefold()
