"""DICOM segmentations that viewers store, and the origin of label maps that are offered as segmentations."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.dicom import LabelOrigin, Made
from medsam2_atlas.storage import Label


@dataclass(frozen=True)
class StoredSeg:
    """A decoded DICOM SEG that a viewer has stored.

    Attributes:
        study: name of the study that it refers to.
        file: its label map, which the caller removes.
        sop_class: SOP Class UID.
        sop_instance: SOP Instance UID.
    """

    study: str
    file: Path
    sop_class: str
    sop_instance: str


def label_origin(label: Label, models: Collection[str], tags: Collection[str]) -> LabelOrigin:
    """Returns the origin of a label map: a model, a person alone, or a person who corrected a model's prediction.

    Args:
        label: the label map.
        models: names of the models, which are the tags of their predictions.
        tags: all tags of the study.
    """
    made: Made = "AUTOMATIC"
    model = label.tag
    if label.tag not in models:
        model = next((tag for tag in tags if tag in models), "")
        made = "SEMIAUTOMATIC" if model else "MANUAL"
    return LabelOrigin(label.tag, label.version.number, label.version.author, made, model)
