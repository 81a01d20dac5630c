"""How large an image can be: limits that tell spacing in mm from spacing in other units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medsam2_atlas.base.errors import InputError

MAX_EXTENT_MM = 2500.0
"""Longer than any CT, of the whole body too."""
MIN_SPACING_MM = 0.02
"""Finer than any CT of a patient: photon-counting scanners reach 0.1 mm."""


def plausible(sizes: Sequence[int], spacing: Sequence[float]) -> bool:
    """Returns whether a CT can have these voxels: numbers along the axes, and their spacing in mm."""
    return _length(sizes, spacing) <= MAX_EXTENT_MM and min(spacing) >= MIN_SPACING_MM


def check_extent(path: Path, sizes: Sequence[int], spacing: Sequence[float]) -> None:
    """Checks that an image is no larger than a CT can be: with spacing of a wrong unit, resampling asks for tens of GB.

    Args:
        path: of the image, for the message.
        sizes: voxels along its axes, (x, y, z) or more.
        spacing: mm along the same axes.

    Raises:
        InputError: an axis is longer than 2.5 m, or its spacing is below 0.02 mm; the message names the spacing.
    """
    if plausible(sizes, spacing):
        return
    length, told = _length(sizes, spacing), f"its voxel spacing is {lengths(spacing)} mm"
    if length > MAX_EXTENT_MM:
        cause = "Is it ten times too large?" if length <= 10 * MAX_EXTENT_MM else "Is it in µm?"
        problem = f"would be {length / 1000:.3g} m long: {told}. {cause}"
    else:
        cause = "Is it in metres?" if max(spacing) < MIN_SPACING_MM else "No CT has such fine voxels."
        problem = f"has voxels finer than {MIN_SPACING_MM} mm: {told}. {cause}"
    raise InputError(path, problem, "Export the image again with its spacing in mm.")


def lengths(values: Sequence[float]) -> str:
    """Returns lengths as a text for messages."""
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _length(sizes: Sequence[int], spacing: Sequence[float]) -> float:
    return max(n * step for n, step in zip(sizes, spacing, strict=False))
