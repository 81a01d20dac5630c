"""What a studies folder holds, as values; and what may take whose place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import ConfirmError, ConflictError
from medsam2_atlas.imaging.labels import OrganTable
from medsam2_atlas.storage.checks import CheckedLabel
from medsam2_atlas.storage.lineage import Version

_PEOPLE = ("person", "restored")


@dataclass(frozen=True)
class Image:
    """A CT of the folder. info: what clients and MONAI Label keep with it."""

    study: str
    file: Path
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Label:
    """The current label map of a study under a tag.

    Attributes:
        study: name of the study.
        tag: its tag.
        file: its path; must not be changed.
        version: its version.
        problem: why it does not count as done; empty if it does.
        unsure: whether the problem is that it is not certain which image, or which of two label files, is meant.
    """

    study: str
    tag: str
    file: Path
    version: Version
    problem: str = ""
    unsure: bool = False


@dataclass(frozen=True)
class Saved:
    """A label map that was taken in, and the version that it took the place of."""

    label: Label
    replaced: Version | None = None


def check_expected(study: str, tag: str, now: Version | None, new: Version, expected: int | None) -> None:
    """Accepts a new version in place of the one that is there now.

    Raises:
        ConflictError: there is another one than the expected, or a person's where a model would write.
    """
    if expected is not None and expected != (now.number if now else 0):
        who = f" by {now.author}" if now and now.author else ""
        is_now = f"version {now.number}{who} of {now.made}" if now else "no label"
        raise ConflictError(
            study, f"has {is_now} under {tag}, not version {expected}.", "Load it, carry your changes over, and save again."
        )
    if new.origin == "model" and now is not None and now.origin in _PEOPLE:
        raise ConflictError(study, f"has a person's label under {tag}: a model does not take its place.")


def check_complete(study: str, before: tuple[int, ...] | None, new: CheckedLabel, table: OrganTable) -> None:
    """Accepts a label map for signing off if it is not empty and lacks no organ of the previous version.

    Args:
        study: name of the study.
        before: organ numbers of the previous version; None if they are not known.
        new: the label map to sign off.
        table: names of organs.

    Raises:
        ConfirmError: it has to be confirmed first.
    """
    names = {organ.index: organ.name for organ in table.organs}
    lost = tuple(names.get(number, str(number)) for number in sorted(set(before or ()) - set(new.organs)))
    what = ", ".join(name.replace("_", " ") for name in lost)
    if not new.organs:
        has = f"; the version before has {what}" if lost else ""
        has = "; the version before cannot be checked" if before is None else has
        raise ConfirmError(study, f"would be signed off with an empty label map{has}.", lost, new.digest)
    if before is None:
        raise ConfirmError(study, "may lose organs: the version before cannot be checked.", lost, new.digest)
    if lost:
        raise ConfirmError(study, f"would lose organs that the version before has: {what}.", lost, new.digest)
