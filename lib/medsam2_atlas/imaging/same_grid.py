"""Compares the grid of a label map with its image's grid, and explains differences.

Other tools round the spacing, or store only a quaternion. If a label map's corners are less than a tenth of a voxel from the
image's, the difference counts as rounding, and the label map gets exactly the image's grid.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam2_atlas.base.errors import InputError

if TYPE_CHECKING:
    from medsam2_atlas.imaging.volume import Geometry, Volume

NEAR = 0.1
"""Max distance between corresponding corners of two grids that count as the same grid, in voxels of the image."""
_ANGLE = 0.01
"""Min angle between corresponding axes that messages report, in degrees."""


def corner_distance(first: Geometry, second: Geometry) -> float:
    """Returns the max distance between corners of two grids of the same size, in voxels of the second along its axes."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (np.array(first.size) - 1)
    return float(np.abs(second.to_index(first.to_world(corners)) - corners).max())


def same_voxels(first: Geometry, second: Geometry) -> bool:
    """Returns whether two grids have the same size and differ by less than a tenth of a voxel at every corner."""
    return first.size == second.size and corner_distance(first, second) < NEAR


def on_grid(label: Volume, grid: Geometry, file_grid: Geometry, image: str | Path) -> Volume:
    """Returns a label map on exactly its image's grid; its `remarks` report a difference that is more than rounding.

    Args:
        label: the label map.
        grid: grid of the image, in LPS orientation.
        file_grid: grid of the image's file.
        image: name of the image, for the message.

    Raises:
        InputError: the grids differ by a tenth of a voxel or more.
    """
    if not same_voxels(label.geometry, grid):
        raise another_grid(label.source, label.geometry, grid, image)
    if label.geometry.matches(grid):
        return replace(label, geometry=grid)
    distance = corner_distance(label.geometry, grid)
    remark = f"Its grid differed from the image's by {distance:.2g} voxels; it was replaced by the image's grid."
    return replace(label, geometry=grid, file_geometry=file_grid, remarks=(*label.remarks, remark))


def another_grid(subject: str | Path, label: Geometry, grid: Geometry, image: str | Path) -> InputError:
    """Returns the error for a label map that has a different grid from its image; it lists the differences.

    Args:
        subject: the label map's name, for the message.
        label: grid of the label map, in LPS orientation.
        grid: grid of the image, in LPS orientation.
        image: name of the image, for the message.
    """
    remedy = "Resample the label map onto the image."
    parts = [_sizes(label) + f" voxels instead of {_sizes(grid)}"] if label.size != grid.size else []
    steps, expected = np.array(label.spacing), np.array(grid.spacing)
    same_steps = bool((np.abs(steps - expected) * np.array(grid.size) < NEAR * expected).all())
    if not same_steps:
        parts.append(f"spacing {_numbers(label.spacing)} instead of {_numbers(grid.spacing)} mm")
    turn = _turn(label, grid)
    if turn >= _ANGLE:
        parts.append(f"axes turned by {turn:.3g}°")
    start = grid.to_index(np.array(label.origin))
    if np.abs(start).max() >= NEAR:
        moved = float(np.linalg.norm(np.array(label.origin) - np.array(grid.origin)))
        parts.append(f"first voxel {moved:.4g} mm away, at voxel {_numbers(np.round(start, 2).tolist())} of the image")
    end = start + np.array(label.size) - 1
    inside = (start > -0.5).all() and (end < np.array(grid.size) - 0.5).all()
    if label.size != grid.size and same_steps and turn < _ANGLE and inside:
        parts.append("it is a crop of the image")
        remedy = "Pad the label map to the whole image, or resample it onto the image."
    if not parts:
        parts.append(f"corners up to {corner_distance(label, grid):.3g} voxels away")
    return InputError(subject, f"has a different grid from {image}: {'; '.join(parts)}.", remedy)


def _turn(first: Geometry, second: Geometry) -> float:
    """Returns the max angle between corresponding axes, in degrees."""
    axes = [np.asarray(grid.direction).reshape(3, 3) for grid in (first, second)]
    chord = float(np.linalg.norm(axes[0] - axes[1], axis=0).max())
    return float(np.degrees(2 * np.arcsin(min(1.0, chord / 2))))


def _sizes(grid: Geometry) -> str:
    return " x ".join(map(str, grid.size))


def _numbers(values: tuple[float, ...] | list[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
