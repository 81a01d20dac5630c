"""Checks and corrects the voxel grid of a file's header: axes at right angles, spacing above 0, lengths in mm.

ITK never gets the geometry of a file: it refuses some grids, accepts wrong ones, and reports neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding.extent import lengths, plausible

ORTHONORMAL = 1e-4
"""Max cosine between two axes that counts as rounding and is not corrected; 0.006°. ITK uses the same value."""
MAX_SKEW = 0.5
"""Max skew that is corrected, in degrees.

Rounded headers reach a few hundredths; 0.5° moves the far end of a body by 2 mm. A tilted gantry has more.
"""
_NAMES = {0.001: "µm", 1.0: "mm", 10.0: "cm", 1000.0: "metres"}
_REMEDY = "Export the image again from its source, or resample it onto a grid with axes at right angles."


@dataclass(frozen=True)
class Grid:
    """A voxel grid in LPS.

    Attributes:
        spacing: voxel spacing along the file's axes (x, y, z) in mm.
        origin: centre of the first voxel, (x, y, z) in mm.
        direction: `3 x 3` matrix by rows; its columns are the unit vectors of the file's axes.
        remarks: the corrections; sentences for people.
    """

    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    remarks: tuple[str, ...] = ()


def checked_grid(
    file: Path, sizes: Sequence[int], spacing: Sequence[float], origin: Sequence[float], axes: np.ndarray, unit: float = 1.0
) -> Grid:
    """Returns the grid of a file, corrected if its meaning is certain. Correct numbers are not changed at all.

    Args:
        file: the file, for messages.
        sizes: number of voxels along (x, y, z).
        spacing: spacing along (x, y, z); a negative value reverses its axis.
        origin: (x, y, z), in the unit of the spacing.
        axes: `[3, 3]`; its columns are the directions of the axes in LPS. Their lengths multiply the spacing.
        unit: the header's unit of length in mm.

    Raises:
        InputError: a number is not finite, an axis has no length, or axes deviate from right angles by more than 0.5°.
    """
    remarks: list[str] = []
    steps = np.array(spacing, float)
    with np.errstate(all="ignore"):
        norms = np.sqrt((axes**2).sum(0))
    if not (np.isfinite(steps).all() and np.isfinite(norms).all() and np.isfinite(origin).all()):
        raise InputError(file, "has a grid with numbers that are infinite or NaN in its header.", _REMEDY)
    if not (steps.all() and norms.all()):
        given = lengths([step * norm for step, norm in zip(steps.tolist(), norms.tolist(), strict=True)])
        raise InputError(file, f"has an axis without length: its voxel spacing is {given}.", _REMEDY)
    if (steps < 0).any():
        remarks.append(f"Its spacing {lengths(steps.tolist())} is negative: the direction of that axis was reversed.")
        axes, steps = axes * np.sign(steps), np.abs(steps)
    if np.abs(norms - 1).max() > ORTHONORMAL:
        remarks.append(f"Its axes have lengths {lengths(norms.tolist())} instead of 1; the spacing was multiplied by them.")
        with np.errstate(over="ignore"):
            axes, steps = axes / norms, steps * norms
    axes = _at_right_angles(file, axes, remarks)
    unit = _unit(sizes, steps, unit, remarks)
    found, place = tuple(step * unit for step in steps.tolist()), tuple(float(value) * unit for value in origin)
    if not (np.isfinite(found).all() and np.isfinite(place).all()):
        raise InputError(file, "has a grid with numbers that are infinite or NaN in its header.", _REMEDY)
    return Grid(found, place, tuple(axes.ravel().tolist()), tuple(remarks))  # type: ignore[arg-type]


def skew_degrees(axes: np.ndarray) -> float:
    """Returns the max deviation of axes from right angles, in degrees. axes: `[3, 3]`, columns of length 1."""
    cosines = np.abs(axes.T @ axes - np.eye(3))
    return float(np.degrees(np.arcsin(min(1.0, float(cosines[~np.eye(3, dtype=bool)].max())))))


def _at_right_angles(file: Path, axes: np.ndarray, remarks: list[str]) -> np.ndarray:
    """Returns the nearest axes at right angles (polar decomposition); a deviation within rounding is not corrected."""
    skew = skew_degrees(axes / np.sqrt((axes**2).sum(0)))
    if skew > MAX_SKEW:
        raise InputError(
            file,
            f"has axes that are not at right angles: they deviate by {skew:.2g}°, more than {MAX_SKEW}°.",
            "Resample it onto a grid with axes at right angles; if the gantry was tilted, have the scanner's software do it.",
        )
    if np.abs(axes.T @ axes - np.eye(3)).max() <= ORTHONORMAL:
        return axes
    if skew >= 0.001:
        remarks.append(f"Its axes deviated by {skew:.2g}° from right angles; they were straightened.")
    return straightened(axes)


def straightened(axes: np.ndarray) -> np.ndarray:
    """Returns the nearest axes `[3, 3]` at right angles and of length 1 (polar decomposition). axes: `[3, 3]`, in columns."""
    left, _, right = np.linalg.svd(axes)
    straight: np.ndarray = left @ right
    return straight


def _unit(sizes: Sequence[int], spacing: np.ndarray, declared: float, remarks: list[str]) -> float:
    """Returns the unit of length in mm: the header's unit, or mm or metres if only these are plausible for a CT.

    No CT has voxels below 0.02 mm. If the same numbers are plausible in metres, there is no doubt. Numbers that are too large
    may be in µm or ten times too large, so they are refused.
    """
    if plausible(sizes, [step * declared for step in spacing.tolist()]):
        if declared != 1.0:
            remarks.append(f"Its header gives lengths in {_NAMES[declared]}; they were converted to mm.")
        return declared
    unit = next((unit for unit in (1.0, 1000.0) if plausible(sizes, [step * unit for step in spacing.tolist()])), declared)
    if unit != declared:
        remarks.append(
            f"Its header gives lengths in {_NAMES[declared]}, but its spacing {lengths(spacing.tolist())} is in "
            f"{_NAMES[unit]}" + ("." if unit == 1.0 else "; it was converted to mm.")
        )
    return unit
