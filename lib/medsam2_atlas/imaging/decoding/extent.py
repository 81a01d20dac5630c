"""Limits of the extent and spacing of a CT, which reveal spacing in other units than mm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medsam2_atlas.base.errors import InputError

MAX_EXTENT_MM = 2500.0
"""Max length of an axis; even a CT of the whole body is shorter."""
MIN_SPACING_MM = 0.02
"""Min spacing; photon-counting scanners reach 0.1 mm in patients."""


def plausible(sizes: Sequence[int], spacing: Sequence[float]) -> bool:
    """Returns whether a CT can have these voxels.

    Args:
        sizes: number of voxels along each axis.
        spacing: spacing along the same axes in mm.
    """
    return _length(sizes, spacing) <= MAX_EXTENT_MM and min(spacing) >= MIN_SPACING_MM


def check_extent(path: Path, sizes: Sequence[int], spacing: Sequence[float]) -> None:
    """Checks that an image has a plausible size for a CT. With spacing in a wrong unit, resampling could take tens of GB.

    Args:
        path: the image, for the message.
        sizes: number of voxels along its axes, (x, y, z) or more.
        spacing: spacing along the same axes in mm.

    Raises:
        InputError: an axis is longer than 2.5 m, or its spacing is below 0.02 mm; the message contains the spacing.
    """
    if plausible(sizes, spacing):
        return
    length, given = _length(sizes, spacing), f"its voxel spacing is {lengths(spacing)} mm"
    if length > MAX_EXTENT_MM:
        cause = "Is it ten times too large?" if length <= 10 * MAX_EXTENT_MM else "Is it in µm?"
        problem = f"would be {length / 1000:.3g} m long: {given}. {cause}"
    else:
        cause = "Is it in metres?" if max(spacing) < MIN_SPACING_MM else "No CT has such fine voxels."
        problem = f"has voxels finer than {MIN_SPACING_MM} mm: {given}. {cause}"
    raise InputError(path, problem, "Export the image again with its spacing in mm.")


def lengths(values: Sequence[float]) -> str:
    """Returns lengths as text for messages.

    >>> lengths([0.75, 0.75, 5])
    '(0.75, 0.75, 5)'
    """
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _length(sizes: Sequence[int], spacing: Sequence[float]) -> float:
    return max(n * step for n, step in zip(sizes, spacing, strict=False))
