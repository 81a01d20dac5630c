"""Writes small patients made of blocks: 40 x 30 x 30 voxels (x, y, z) of 6 mm, four organs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ORGANS = {
    2: (slice(9, 15), slice(17, 22), slice(8, 13)),
    3: (slice(9, 15), slice(17, 22), slice(27, 32)),
    6: (slice(18, 26), slice(8, 16), slice(6, 14)),
    14: (slice(2, 7), slice(8, 14), slice(17, 24)),
}
"""The voxels `[z, y, x]` of the kidneys, the liver and the bladder."""
SHAPE = (30, 30, 40)
WRITTEN = 1_790_000_000
"""Modification time of CTs. It is set, because archives store whole seconds only, and stamps of predictions depend on it."""


def write_ct(file: Path, number: int) -> None:
    """Writes the CT of a patient; the number shifts the organs and sets their HU."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, 4:26, 4:36] = 40
    hu[:, 18:24, 17:23] = 500
    for box in ORGANS.values():
        hu[_shifted(box, number)] = 110 + 2 * number
    sitk.WriteImage(_image(hu), str(file), useCompression=True)
    stamp_ct(file, number)


def stamp_ct(file: Path, number: int) -> None:
    """Sets a modification time that an archive stores exactly."""
    os.utime(file, (WRITTEN + number, WRITTEN + number))


def write_labels(file: Path, number: int, organs: tuple[int, ...] = tuple(ORGANS), grow: int = 0) -> None:
    """Writes a label map of a patient.

    Args:
        file: file to write; its suffix determines the format.
        number: number of the patient.
        organs: numbers of the organs to draw.
        grow: number of voxels by which each organ is larger along z than in the CT, as after a correction.
    """
    labels = np.zeros(SHAPE, np.uint8)
    for organ in organs:
        z, y, x = _shifted(ORGANS[organ], number)
        labels[slice(z.start, z.stop + grow), y, x] = organ
    sitk.WriteImage(_image(labels), str(file), useCompression=True)


def _shifted(box: tuple[slice, slice, slice], number: int) -> tuple[slice, ...]:
    shift = (number % 3 - 1, (number // 3) % 3 - 1, 0)
    return tuple(slice(span.start + n, span.stop + n) for span, n in zip(box, shift, strict=True))


def _image(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((6.0, 6.0, 6.0))
    image.SetOrigin((-120.0, -90.0, 12.0))
    return image
