"""Tiny downloads of data sets, with bodies of 24 x 22 x 20 voxels in any orientation, for tests of `datasets`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

SHAPE = (20, 22, 24)
CODES = ("LPS", "RAS", "LAI", "PIR", "SLA")


def ct(seed: int) -> np.ndarray:
    """Returns a body in air: HU, `[z, y, x]` int16."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, 4:18, 4:20] = np.random.default_rng(seed).integers(-90, 90, (SHAPE[0], 14, 16))
    return hu


def organs(values: tuple[int, ...]) -> np.ndarray:
    """Returns a label map with a block for each value, `[z, y, x]` uint8."""
    labels = np.zeros(SHAPE, np.uint8)
    for number, value in enumerate(values):
        labels[number : number + 3, 5 + number : 9 + number, 6:12] = value
    return labels


def write(file: Path, array: np.ndarray, code: str = "LPS", origin: tuple[float, float, float] = (5.0, -7.0, 11.0)) -> None:
    """Writes an LPS array `[z, y, x]` with the axes of another orientation."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.5, 1.25, 3.0))
    image.SetOrigin(origin)
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(file))


def amos(folder: Path, *numbers: int, values: tuple[int, ...] = (1, 6, 10)) -> Path:
    """Writes annotated cases in the layout of AMOS22, each in another orientation; returns the folder."""
    for number in numbers:
        part = "Tr" if number % 2 else "Va"
        code = CODES[number % len(CODES)]
        write(folder / f"images{part}" / f"amos_{number:04}.nii.gz", ct(number), code)
        write(folder / f"labels{part}" / f"amos_{number:04}.nii.gz", organs(values), code)
    return folder
