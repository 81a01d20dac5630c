"""The organs' SNOMED CT codes, as in DICOM's context groups (PS3.16).

highdicom takes seconds to import, so it is imported only by functions that write objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from medsam2_atlas.imaging.labels import Organ
from medsam2_atlas.imaging.segment_names import SIDES

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept


def anatomy() -> CodedConcept:
    """Returns the property category of all segments: anatomical structure."""
    return _concept("123037004", "SCT", "Anatomical Structure")


def property_type(organ: Organ) -> CodedConcept:
    """Returns the property type of an organ's segment: its anatomical structure."""
    scheme, _, value = organ.code.partition(":")
    return _concept(value, scheme, organ.code_meaning)


def laterality(organ: Organ) -> CodedConcept | None:
    """Returns the side of a paired organ; None for other organs."""
    side = SIDES.get(organ.name.split("_", 1)[0])
    return _concept(side[0], "SCT", side[1]) if side else None


def code_of(sequence_item: Dataset) -> str:
    """Returns a code as `SCHEME:VALUE`, as the organ table writes it."""
    return f"{sequence_item.CodingSchemeDesignator}:{sequence_item.CodeValue}"


def _concept(value: str, scheme: str, meaning: str) -> CodedConcept:
    from highdicom.sr import CodedConcept

    return CodedConcept(value, scheme, meaning)
