"""The task of reader processes that cuts one slice out of a CT and its label map, for a small picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medsam2_atlas.imaging.image_reading import label_map, upright_ct
from medsam2_atlas.imaging.same_grid import on_grid
from medsam2_atlas.imaging.volume import Geometry

_FLAT = 0.5
"""Height of a coronal slice, as a fraction of its width, below which an axial slice shows more."""


def middle_slice(path: str, label: str = "") -> tuple[dict[str, Any], list[np.ndarray]]:
    """Cuts a CT through the middle of its organs, or of itself if it has no label map.

    The slice is coronal, because it shows all organs at once. If the CT has few slices, it is axial.

    Args:
        path: the CT.
        label: its label map; empty for none.

    Returns:
        A dictionary with `spacing`, the distances between rows and between columns in mm. A list with the values of the slice,
        `[rows, columns]` float32, the head or the front at the top; and its organ numbers, `[rows, columns]` uint8, if there is
        a label map.

    Raises:
        InputError: the CT or the label map cannot be read, or their grids differ.
    """
    image, _, _ = upright_ct(path)
    geometry = Geometry.of(image)
    values = sitk.GetArrayViewFromImage(image)
    organs = None
    if label:
        found = replace(label_map(Path(label), geometry), source=Path(label).name)
        organs = on_grid(found, geometry, geometry, Path(path).name).array
    dx, dy, dz = geometry.spacing
    (_, ny, nx), nz = values.shape, values.shape[0]
    if nz * dz < _FLAT * nx * dx:
        z = _middle(organs, 0, nz)
        spacing, cuts = (dy, dx), [stack[z] for stack in (values, organs) if stack is not None]
    else:
        y = _middle(organs, 1, ny)
        spacing, cuts = (dz, dx), [stack[::-1, y] for stack in (values, organs) if stack is not None]
    return {"spacing": list(spacing)}, [np.ascontiguousarray(cuts[0], np.float32), *map(np.ascontiguousarray, cuts[1:])]


def _middle(organs: np.ndarray | None, axis: int, count: int) -> int:
    """Returns the index of the slice that has as many voxels of organs before it as after it."""
    if organs is None or not organs.any():
        return count // 2
    others = tuple(other for other in range(3) if other != axis)
    below = np.cumsum((organs > 0).sum(axis=others))
    return int(np.searchsorted(below, below[-1] / 2))
