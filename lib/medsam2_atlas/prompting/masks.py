"""An organ's current mask, and the marks by which a person corrects it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.prompting.marks import SliceMarks, slice_marks


@dataclass(frozen=True, eq=False)
class MaskedOrgan:
    """An organ's current mask and the marks that correct it.

    Attributes:
        label: the organ number.
        mask: bool `[z, y, x]`; not empty.
        marks: the marked slices, in voxel indices of the LPS volume; they may lie beyond the mask's ends.
        z_min: the first slice of the range in which slices without a mask are segmented.
        z_max: the last slice of that range.
        source: where the mask comes from, for reports.
    """

    label: int
    mask: np.ndarray
    marks: tuple[SliceMarks, ...]
    z_min: int
    z_max: int
    source: str = ""

    def __post_init__(self) -> None:
        slices = [marks.z for marks in self.marks]
        if not self.covered or len(set(slices)) < len(slices):
            raise ValueError(f"label {self.label}: the mask must not be empty, and no slice may be marked twice")
        used = [*slices, self.covered[0], self.covered[-1]]
        if not 0 <= self.z_min <= min(used) <= max(used) <= self.z_max < len(self.mask):
            raise ValueError(f"label {self.label}: slices {sorted(used)} do not lie in {self.z_min}..{self.z_max}")

    @cached_property
    def covered(self) -> list[int]:
        """The slices with a mask, in ascending order."""
        slices: list[int] = np.flatnonzero(self.mask.any((1, 2))).tolist()
        return slices

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the mask's shape and voxels."""
        digest = hashlib.sha256(repr(self.mask.shape).encode())
        digest.update(np.packbits(self.mask).tobytes())
        return digest.hexdigest()


def masked_organ(
    volume: Volume,
    labels: Volume,
    label: int,
    *,
    boxes: Sequence[Sequence[Sequence[float]]] = (),
    inside: Sequence[Sequence[float]] = (),
    outside: Sequence[Sequence[float]] = (),
    reach: float | None = None,
    source: str = "",
) -> MaskedOrgan:
    """Returns an organ's mask in a label map, and the marks that correct it.

    Args:
        volume: the image.
        labels: the label map `[z, y, x]` on the grid of the image; only the voxels of the organ count.
        label: the organ number.
        boxes: boxes, each as two opposite corners (x, y, z) on one axial slice, in voxel indices of the image file.
        inside: points (x, y, z) on the organ.
        outside: points (x, y, z) outside the organ.
        reach: how far beyond the outermost slices of mask and marks the organ is searched, in mm; None does not search there.
        source: where the mask comes from, for messages and reports.

    Raises:
        InputError: the label map does not contain the organ, or a mark cannot be used.
    """
    mask = labels.array == label
    if not mask.any():
        raise InputError(
            source or labels.source,
            f"has no voxel of {organ_table()[label].name} (label {label}).",
            "Choose the organ that the mask shows, or leave the mask out.",
        )
    marks = slice_marks(volume, boxes=boxes, inside=inside, outside=outside)
    more = 0 if reach is None else round(reach / volume.geometry.spacing[2])
    used = [*(one.z for one in marks), *np.flatnonzero(mask.any((1, 2))).tolist()]
    last = len(volume.array) - 1
    return MaskedOrgan(label, mask, tuple(marks), max(0, min(used) - more), min(last, max(used) + more), source)
