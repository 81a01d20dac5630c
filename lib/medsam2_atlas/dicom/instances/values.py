"""Converts the values of a CT to DICOM's stored values: 16-bit integers, a slope and an intercept (PS3.3, C.11.1.1).

Whole numbers with a range of at most 65536 are stored exactly, with slope 1. Other values are rounded to the nearest multiple
of the slope, the smallest power of two with which their range fits, so the error is at most half the slope: 0.03 HU for a
range of 4096 HU.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import SimpleITK as sitk

from medsam2_atlas.dicom.texts import decimal
from medsam2_atlas.imaging.image_reading import refuse_nan, upright_ct
from medsam2_atlas.imaging.volume import Geometry

_LOWEST, _HIGHEST = -(1 << 15), (1 << 15) - 1


def stored_volume(path: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Decodes a CT for DICOM instances; a task of reader processes.

    Returns:
        A dictionary with `geometry` and `file_geometry` (the grids in LPS orientation and in the file), `slope` and
        `intercept`; and a list with the stored values, `[z, y, x]` int16 in LPS orientation.

    Raises:
        InputError: the CT cannot be read.
    """
    image, grid, _ = upright_ct(path)
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype.kind == "f":
        refuse_nan(path, array)
    values, slope, intercept = to_stored(array)
    about = {"geometry": asdict(Geometry.of(image)), "file_geometry": asdict(grid), "slope": slope, "intercept": intercept}
    return about, [values]


def to_stored(array: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Converts values to stored values.

    Args:
        array: finite values, `[z, y, x]`, any number type.

    Returns:
        The stored values, `[z, y, x]` int16; the slope; and the intercept. `stored * slope + intercept` gives the values.
    """
    low, high = float(array.min()), float(array.max())
    whole = array.dtype.kind in "iu" or all(bool((plane == np.rint(plane)).all()) for plane in array)
    slope, intercept = _scale(low, high, whole)
    if (slope, intercept) == (1.0, 0.0):
        return array.astype(np.int16), slope, intercept  # a copy, because the image owns the memory of a view
    stored = np.empty(array.shape, np.int16)
    for plane, target in zip(array, stored, strict=True):  # slice by slice: the calculation takes eight bytes per voxel
        target[...] = np.rint((plane.astype(float) - intercept) / slope).clip(_LOWEST, _HIGHEST)
    return stored, slope, intercept


def _scale(low: float, high: float, whole: bool) -> tuple[float, float]:
    """Returns slope and intercept for values between two bounds. Both are exact as DICOM's decimal strings."""
    slope = 1.0
    if not whole or high - low > _HIGHEST - _LOWEST:
        exponent = math.ceil(math.log2((high - low) / (_HIGHEST - _LOWEST - 1)))
        slope = float(decimal(2.0**exponent))
        if slope * (_HIGHEST - _LOWEST - 1) < high - low:  # the decimal string was rounded down
            slope = float(decimal(slope * 1.0001))
    if _LOWEST * slope <= low and high <= _HIGHEST * slope:
        return slope, 0.0
    middle = math.ceil((low + high) / 2 / slope) * slope
    return slope, float(decimal(middle))
