"""What DICOM objects say of a label map's origin, the UIDs that follow from it, and whether it lies on its series."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medsam2_atlas.base.choices import Made
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom.texts import person_name
from medsam2_atlas.imaging.labels import OrganTable

if TYPE_CHECKING:
    import SimpleITK as sitk
    from pydicom.dataset import Dataset


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


def on_series(labels: sitk.Image, sources: Sequence[Dataset], table: OrganTable) -> np.ndarray:
    """A label map's voxels `[slices, rows, columns]`, uint8, once it is known to lie on a series' slices.

    Raises:
        InputError: it has another shape, or values that are not in the table.
    """
    import SimpleITK as sitk

    masks = sitk.GetArrayFromImage(labels).astype(np.uint8)
    shape = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    if masks.shape != shape:
        raise InputError("label map", f"has shape {masks.shape}, the series {shape}.", "Resample the label map onto the image.")
    strange = sorted({int(v) for v in np.unique(masks)} - {0, *table.indices})
    if strange:
        raise InputError("label map", f"holds values {strange} that are not in the organ table.")
    return masks
