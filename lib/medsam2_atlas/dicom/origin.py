"""The origin of a label map as recorded in DICOM objects, and the UIDs derived from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from medsam2_atlas.base.choices import Made
from medsam2_atlas.dicom.texts import person_name


@dataclass(frozen=True)
class LabelOrigin:
    """The origin of a label map.

    Attributes:
        tag: the tag of the label.
        version: the version of the label; versions ascend.
        author: the name of the person who made or corrected it.
        made: `MANUAL`: drawn by a person alone; `SEMIAUTOMATIC`: begun by a model and completed by a person; `AUTOMATIC`: an
            unchanged prediction of a model.
        model: the name of the model.
    """

    tag: str
    version: int
    author: str = ""
    made: Made = "SEMIAUTOMATIC"
    model: str = ""


def derived_uid(name: str) -> str:
    """Returns a UID derived from a name, the same on every machine."""
    digest = hashlib.sha256(f"medsam2_atlas/{name}".encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def seg_series_uid(image_series: str, tag: str) -> str:
    """Returns the series UID of all versions of a label, derived from image series and tag, the same on every machine."""
    return derived_uid(f"{image_series}/{tag}")


def person(author: str) -> str:
    """Returns a person's name in DICOM's form; a name with a single component gets a caret at its end."""
    name = person_name(author)[:60] or "unknown"
    return name if "^" in name else f"{name}^"
