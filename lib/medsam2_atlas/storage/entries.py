"""What a studies folder holds, as values; and what may take whose place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam2_atlas.errors import ConflictError, InputError
from medsam2_atlas.files import sha256
from medsam2_atlas.storage.lineage import Version
from medsam2_atlas.volume import read_volume

_PEOPLE = ("person", "restored")


@dataclass(frozen=True)
class Image:
    """A CT of the folder. info: what clients and MONAI Label keep with it."""

    study: str
    file: Path
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Label:
    """The label map that a study has under a tag now."""

    study: str
    tag: str
    file: Path
    version: Version


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


def same_image(first: Path, second: Path) -> bool:
    """Whether two files hold the same voxels on the same grid."""
    if sha256(first) == sha256(second):
        return True
    try:
        return read_volume(first).digest == read_volume(second).digest
    except InputError:
        return False
