"""Label maps as viewers send them, turned into files on the image's grid with the organ table's numbers.

3D Slicer numbers segments as it lists them, and OHIF's panel in the order of their names; both tell which number has which
name (`label_info`). OHIF has voxels and a grid, but no file.
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
    """Writes voxels (one byte each, x fastest) on a grid as an image.

    Args:
        raw: the voxels.
        grid: `dimensions` (x, y, z), `spacing` and `origin` in mm, LPS, `direction` as nine numbers: the directions of the
            x, the y and the z axis one after the other, as cornerstone has them.
        file: what to write.

    Raises:
        InputError: not a grid, or one of another size than the voxels.
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
        raise InputError("volume", f"is no grid ({error}).", "Send dimensions, spacing, origin and direction.") from error
    if raw.stat().st_size != int(np.prod(geometry.size, dtype=np.int64)):
        raise InputError("volume", f"of {geometry.size} voxels has {raw.stat().st_size} bytes.", "Send one byte a voxel.")
    try:
        image = to_sitk(np.fromfile(raw, np.uint8).reshape(geometry.shape), geometry)
    except RuntimeError as error:
        raise InputError("volume", "has no grid of three axes at right angles.", "Send the viewer's own.") from error
    sitk.WriteImage(image, str(file), useCompression=True)


def renumber(file: Path, names: Sequence[Mapping[str, Any]]) -> None:
    """Gives a label map the organ table's numbers, in place.

    Args:
        file: the label map. A segmentation of 3D Slicer stays as it is: it names its own segments.
        names: `name` and `idx` of each of its numbers. Where they agree with the table, the file stays as it is.

    Raises:
        InputError: not a label map, or voxels of a name that is no organ.
    """
    if is_segmentation(file):
        return
    try:
        told = {int(entry["idx"]): str(entry["name"]) for entry in names}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError("label_info", f"is no list of names and numbers ({error}).") from error
    if all((organ_named(name) or idx) == idx for idx, name in told.items()):
        return
    labels = read_labels(file)
    table = np.zeros(256, np.uint8)
    for value in np.unique(labels.array):
        name = told.get(int(value), "")
        if value and not organ_named(name):
            shown = listed([name]) if name else f"the number {value}"
            raise InputError("label map", f"holds {shown}, which is no organ.", remedy())
        table[value] = organ_named(name) if value else 0
    write_volume(labels.with_array(table[labels.array]), file)
