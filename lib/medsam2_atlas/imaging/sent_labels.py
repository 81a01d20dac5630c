"""Turns the label maps that viewers send into files on the image's grid with the organ table's numbers.

3D Slicer numbers segments in the order of its list; OHIF's panel numbers them in the order of their names. Both send the name
of each number (`label_info`). OHIF sends voxels and a grid instead of a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import is_segmentation
from medsam2_atlas.imaging.segment_names import listed, organ_named, remedy
from medsam2_atlas.imaging.volume import Geometry, read_labels, to_sitk, write_volume


def volume_to_file(raw: Path, grid: Mapping[str, Any], file: Path) -> None:
    """Writes voxels on a grid as an image file.

    Args:
        raw: file of the voxels, one byte each, with x varying fastest.
        grid: `dimensions` (x, y, z) in voxels; `spacing` and `origin` (x, y, z) in mm, LPS; `direction` as nine numbers: the
            directions of the x, y and z axis one after the other, as in cornerstone.
        file: the file to write.

    Raises:
        InputError: the grid is not valid, or has another number of voxels.
    """
    try:
        size, spacing, origin = (tuple(grid[key]) for key in ("dimensions", "spacing", "origin"))
        direction = tuple(np.array(grid["direction"], float).reshape(3, 3).T.ravel())
        geometry = Geometry(
            (int(size[0]), int(size[1]), int(size[2])),
            (float(spacing[0]), float(spacing[1]), float(spacing[2])),
            (float(origin[0]), float(origin[1]), float(origin[2])),
            direction,
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        problem = f"is not a valid grid ({error})."
        raise InputError("volume", problem, "Send dimensions, spacing, origin and direction.") from error
    if raw.stat().st_size != int(np.prod(geometry.size, dtype=np.int64)):
        raise InputError("volume", f"of {geometry.size} voxels has {raw.stat().st_size} bytes.", "Send one byte per voxel.")
    try:
        image = to_sitk(np.fromfile(raw, np.uint8).reshape(geometry.shape), geometry)
    except RuntimeError as error:
        raise InputError("volume", "has axes that are not at right angles.", "Send the viewer's own grid.") from error
    sitk.WriteImage(image, str(file), useCompression=True)


def renumber(file: Path, names: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the numbers of a label map by those of the organ table, in its file.

    Args:
        file: the label map. A segmentation of 3D Slicer is not changed, because it contains the names of its segments.
        names: `name` and `idx` of each number. If all of them agree with the table, the file is not changed.

    Raises:
        InputError: the file is not a label map, or has voxels of a segment that is not an organ.
    """
    if is_segmentation(file):
        return
    try:
        name_of = {int(entry["idx"]): str(entry["name"]) for entry in names}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            "label_info", f"is not a list of names and numbers ({error}).", "Send entries with `name` and `idx`."
        ) from error
    if all((organ_named(name) or idx) == idx for idx, name in name_of.items()):
        return
    labels = read_labels(file)
    table = np.zeros(256, np.uint8)
    for value in np.unique(labels.array):
        name = name_of.get(int(value), "")
        if value and not organ_named(name):
            shown = listed([name]) if name else f"the number {value}"
            raise InputError("label map", f"contains {shown}, which is not an organ.", remedy())
        table[value] = organ_named(name) if value else 0
    write_volume(labels.with_array(table[labels.array]), file)
