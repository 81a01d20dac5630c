"""The origin of a label map as DICOM objects state it, and the UIDs that are derived from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medsam2_atlas.base.choices import Made
from medsam2_atlas.dicom.texts import person_name

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class LabelOrigin:
    """Where a label map comes from. tag: of the label. version: rising. author: who made or corrected it.

    made: drawn by a person alone (MANUAL), begun by a model and taken over by a person (SEMIAUTOMATIC), or a model's
    prediction as it is (AUTOMATIC). model: which one.
    """

    tag: str
    version: int
    author: str = ""
    made: Made = "SEMIAUTOMATIC"
    model: str = ""


def derived_uid(name: str) -> str:
    """A UID that is the same for the same name on any machine."""
    digest = hashlib.sha256(f"medsam2_atlas/{name}".encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def seg_series_uid(image_series: str, tag: str) -> str:
    """Returns the series UID of all versions of a label: the same for the same image and tag, on any machine."""
    return derived_uid(f"{image_series}/{tag}")


def person(author: str) -> str:
    """A person's name in DICOM's form; one of a single component ends in a caret."""
    name = person_name(author)[:60] or "unknown"
    return name if "^" in name else f"{name}^"
