"""A person's points on a slice: they overrule the network, and reports list them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.prompting import SliceMarks
from medsam2_atlas.segmenters.marked_config import marks_config


def apply_points(plane: np.ndarray, image: Volume, marks: SliceMarks) -> str:
    """Corrects a slice's mask in place, so that it agrees with a person's points.

    A point off the organ removes the mask's component that contains it if the point is about as deep inside as the
    component's deepest pixel. Otherwise, it removes the component's pixels that are nearer to the point than to that deepest
    pixel. A point on the organ, but outside the mask, adds the connected pixels around it of similar intensity.

    Args:
        plane: the mask `[y, x]`, bool; changed in place.
        image: the CT, `[z, y, x]` in HU.
        marks: marks of this slice, in voxel indices (x, y).

    Returns:
        The list of corrections as text; empty if the mask agreed with all points.
    """
    config, step = marks_config(), np.array(image.geometry.spacing[1::-1])
    notes = []
    for x, y in marks.outside:
        off = (round(y), round(x))
        pieces, _ = ndimage.label(plane)
        if pieces[off]:
            piece = pieces == pieces[off]
            depth = ndimage.distance_transform_edt(np.pad(piece, 1), sampling=step)[1:-1, 1:-1]
            core = np.unravel_index(int(depth.argmax()), depth.shape)
            wrong = piece
            if depth[off] < config.min_inner_depth * depth[core]:
                wrong = piece & (_distances(plane.shape, off, step) < _distances(plane.shape, core, step))
            plane[wrong] = False
            notes.append(f"slice {marks.z}: ({x:.0f}, {y:.0f}) was removed")
    for x, y in marks.inside:
        on = (round(y), round(x))
        if not plane[on]:
            near = _distances(plane.shape, on, step) < config.max_radius_mm
            plane |= _similar(image.array[marks.z], on, near, config.max_hu_difference)
            notes.append(f"slice {marks.z}: ({x:.0f}, {y:.0f}) was added")
    return "; ".join(notes)


def _distances(shape: tuple[int, ...], pixel: Sequence[int | np.integer], step: np.ndarray) -> np.ndarray:
    """Returns the distances `[y, x]` of all pixels to one pixel (y, x), in mm; `step` is the spacing (y, x) in mm."""
    rows, columns = np.indices(shape)
    distance: np.ndarray = np.hypot((rows - pixel[0]) * step[0], (columns - pixel[1]) * step[1])
    return distance


def _similar(hu: np.ndarray, pixel: tuple[int, int], near: np.ndarray, max_difference: float) -> np.ndarray:
    """Returns the pixels `[y, x]` that are connected to one pixel (y, x), near it, and of similar HU; holes are filled."""
    around = hu[max(0, pixel[0] - 1) : pixel[0] + 2, max(0, pixel[1] - 1) : pixel[1] + 2]
    similar = near & (np.abs(hu - np.median(around)) <= max_difference)
    similar[pixel] = True
    pieces, _ = ndimage.label(similar)
    piece: np.ndarray = pieces == pieces[pixel]
    return ndimage.binary_fill_holes(piece)


def described_marks(label: int, slices: Sequence[SliceMarks]) -> list[dict[str, Any]]:
    """Returns an organ's marks for a report."""
    return [
        {
            "organ": organ_table()[label].name,
            "z": marks.z,
            "box": marks.box,
            "inside": marks.inside,
            "outside": marks.outside,
        }
        for marks in slices
    ]
