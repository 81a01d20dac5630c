"""Images and label maps as values, and the rules for replacing a label map."""

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
    """A CT of the folder.

    Attributes:
        study: the name of the study.
        file: its path.
        info: the information that clients and MONAI Label store with it.
    """

    study: str
    file: Path
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Label:
    """The current label map of a study under a tag.

    Attributes:
        study: the name of the study.
        tag: its tag.
        file: its path. Callers must not change the file.
        version: its version.
        problem: why the label map does not count as done; empty if it does.
        unsure: whether the problem is that its image may have been replaced, or that several different label files exist.
    """

    study: str
    tag: str
    file: Path
    version: Version
    problem: str = ""
    unsure: bool = False


@dataclass(frozen=True)
class Saved:
    """A label map that was saved, and the version that it replaced."""

    label: Label
    replaced: Version | None = None


def check_expected(study: str, tag: str, current: Version | None, new: Version, expected: int | None) -> None:
    """Checks whether a new version may replace the current one.

    Args:
        study: the name of the study.
        tag: the tag of the label map.
        current: the current version; None if there is none.
        new: the new version.
        expected: the number of the version that the change is based on, 0 for none; None accepts any.

    Raises:
        ConflictError: the current version is not the expected one, or a model's label map would replace a person's.
    """
    if expected is not None and expected != (current.number if current else 0):
        who = f" by {current.author}" if current and current.author else ""
        has = f"version {current.number}{who} of {current.made}" if current else "no label"
        raise ConflictError(
            study, f"has {has} under {tag}, not version {expected}.", "Load it, carry your changes over, and save again."
        )
    if new.origin == "model" and current is not None and current.origin in _PEOPLE:
        raise ConflictError(
            study, f"has a person's label under {tag}: models do not replace it.", "Save the prediction under another tag."
        )


def check_complete(study: str, before: tuple[int, ...] | None, new: CheckedLabel, table: OrganTable) -> None:
    """Checks that a label map to sign off is not empty and lacks no organ of the previous version.

    Args:
        study: the name of the study.
        before: the organ numbers of the previous version; None if they are unknown.
        new: the label map to sign off.
        table: the names of the organs.

    Raises:
        ConfirmError: a person must confirm the label map first.
    """
    names = {organ.index: organ.name for organ in table.organs}
    lost = tuple(names.get(number, str(number)) for number in sorted(set(before or ()) - set(new.organs)))
    listed = ", ".join(name.replace("_", " ") for name in lost)
    if not new.organs:
        has = f"; the previous version has {listed}" if lost else ""
        has = "; the previous version cannot be checked" if before is None else has
        raise ConfirmError(study, f"would be signed off with an empty label map{has}.", lost, new.digest)
    if before is None:
        raise ConfirmError(study, "may lose organs: the previous version cannot be checked.", lost, new.digest)
    if lost:
        raise ConfirmError(study, f"would lose organs that the previous version has: {listed}.", lost, new.digest)
