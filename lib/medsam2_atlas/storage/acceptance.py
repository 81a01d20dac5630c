"""The review stage: models learn from a version of a `final` label map only after a reviewer has accepted it.

`review.json` in the work folder records whether the stage is on, so that commands follow it as the server does. A reviewer
accepts a version, or returns it to its author with a comment. Both are stored in the version's record. Clients cannot change
them with the information that they send with a label map. A new version has neither. Reviewers cannot accept or return their
own label maps, so two people have seen each label map that models learn from.

A return ends an acceptance, and an acceptance ends a return; the comment stays in the record. Models never learn from a
returned version, even if the stage is turned off later.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.base.errors import ConflictError, InputError, StorageError
from medsam2_atlas.base.files import text_of, write_json
from medsam2_atlas.base.json_text import stored_json
from medsam2_atlas.storage.entries import Label
from medsam2_atlas.storage.folder import WorkFolder
from medsam2_atlas.storage.lineage import Version, now
from medsam2_atlas.storage.rows import LabelRow

log = logging.getLogger(__name__)

_FILE = "review.json"
MAX_COMMENT = 2000
"""Max number of characters of a reviewer's comment."""


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
            return bool(stored_json(text_of(self._file))["on"])
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
    if label.version.returned:
        return f"is signed off as version {label.version.number}, but {returner(label.version)} has returned that version."
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
    version = _current(row, number, "accept")
    if row.problem:
        raise ConflictError(row.study, f"has a label map with a problem: {row.problem}", "Solve the problem first.")
    _check_other(row.study, versions, version, person, "accept")
    if version.accepted:
        return version
    return replace(version, accepted={"by": person.name, "by_id": person.id, "at": now()})


def returned(row: LabelRow, versions: Sequence[Version], number: int, person: Person, comment: str) -> Version:
    """Returns the record of the current version with a reviewer's comment. It replaces an earlier one of the same reviewer.

    Args:
        row: the current label map.
        versions: all its versions in ascending order.
        number: the number of the version that the reviewer has seen.
        person: the reviewer.
        comment: what the author should change; see `comment_of`.

    Raises:
        InputError: the label map is not `final`, the reviewer has drawn it, or the comment is empty or too long.
        ConflictError: another version is current.
    """
    version, text = _current(row, number, "return"), comment_of(comment)
    _check_other(row.study, versions, version, person, "return")
    whose = (person.id, "" if person.id else person.name)
    others = [old for old in version.returns if (old.get("by_id"), "" if old.get("by_id") else old.get("by")) != whose]
    new = {"by": person.name, "by_id": person.id, "at": now(), "comment": text}
    return replace(version, accepted={}, returns=(*others, new))


def comment_of(text: str) -> str:
    r"""Returns a comment without invisible characters, and without blanks at its ends.

    Raises:
        InputError: the comment is empty or too long.

    >>> comment_of("  spleen:\tcut off ")
    'spleen: cut off'
    """
    if len(text) > MAX_COMMENT:
        raise InputError("comment", f"has {len(text)} characters; max {MAX_COMMENT}.", "Shorten it.")
    shown = "".join(c if c == "\n" or c.isprintable() else " " if c.isspace() else "" for c in text).strip()
    if not shown:
        raise InputError("comment", "is empty.", "Write what the author should change.")
    return shown


def returner(version: Version) -> str:
    """Returns the name of the reviewer who returned a version, or "a reviewer" if it is unknown."""
    return version.returned.get("by") or "a reviewer"


def may_judge(versions: Sequence[Version], person: Person) -> bool:
    """Returns whether a reviewer may accept or return the newest of these versions: it is no removal, and not their own.

    Args:
        versions: all versions of a `final` label map in ascending order.
        person: the reviewer.
    """
    return bool(versions) and not versions[-1].removed and not same_person(person, drawer_of(versions))


def drawer_of(versions: Sequence[Version]) -> Person:
    """Returns who drew the newest of these versions: the author of the first one with the same content.

    Args:
        versions: all versions of a `final` label map in ascending order; at least one.
    """
    first = _first_saved(versions, versions[-1])
    return Person(first.author, first.author_id)


def same_person(one: Person, other: Person) -> bool:
    """Returns whether two people are the same: compares the ids if both are known, else the names.

    >>> same_person(Person("Kim", "a"), Person("Kim", "b")), same_person(Person("kim", "a"), Person("Kim"))
    (False, True)
    """
    if one.id and other.id:
        return one.id == other.id
    return bool(one.name) and one.name.casefold() == other.name.casefold()


def _current(row: LabelRow, number: int, action: str) -> Version:
    """Returns the current version of a `final` label map if it is the one that the reviewer has seen."""
    if row.tag != FINAL:
        raise InputError(
            row.study, f"has a label map under {row.tag}: reviewers {action} only {FINAL} label maps.", "Leave out the tag."
        )
    if row.version.number != number:
        raise ConflictError(
            row.study,
            f"now has version {row.version.number} under {FINAL}, not {number}.",
            "Check the current version, and accept or return that one.",
        )
    return row.version


def _check_other(study: str, versions: Sequence[Version], version: Version, person: Person, action: str) -> None:
    first = _first_saved(versions, version)
    if same_person(person, Person(first.author, first.author_id)):
        raise InputError(
            study, f"has a label map that {person.name} drew: reviewers cannot {action} their own.", "Ask another reviewer."
        )


def _first_saved(versions: Sequence[Version], version: Version) -> Version:
    """Returns the first version with the same content: its author drew it, later ones only restored or confirmed it."""
    return next((old for old in versions if old.sha256 == version.sha256), version)
