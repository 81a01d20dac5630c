"""The organs' codes in SNOMED CT, as DICOM's context groups have them (PS3.16)."""

from __future__ import annotations

from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset

from medsam2_atlas.labels import Organ

ANATOMY = CodedConcept("123037004", "SCT", "Anatomical Structure")


def property_type(organ: Organ) -> CodedConcept:
    """What a segment shows."""
    scheme, _, value = organ.code.partition(":")
    return CodedConcept(value, scheme, organ.code_meaning)


def laterality(organ: Organ) -> CodedConcept | None:
    """Which of a pair of organs it is."""
    sides = {"right": ("24028007", "Right"), "left": ("7771000", "Left")}
    side = sides.get(organ.name.split("_", 1)[0])
    return CodedConcept(side[0], "SCT", side[1]) if side else None


def code_of(sequence_item: Dataset) -> str:
    """Scheme and value of a code, as the organ table writes them."""
    return f"{sequence_item.CodingSchemeDesignator}:{sequence_item.CodeValue}"
