"""Looks at a label file before it is taken in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medsam2_atlas.errors import InputError
from medsam2_atlas.labels import OrganTable, organ_table
from medsam2_atlas.storage.folder import suffix_in
from medsam2_atlas.volume import SUFFIXES, Geometry, read_grid, read_labels


def suffix_of(name: str) -> str:
    """The suffix that tells the type of an image or label file.

    Raises:
        InputError: another type.
    """
    suffix = suffix_in(name)
    if not suffix:
        raise InputError(Path(name).name[-80:], "is of a type that is not taken.", f"Send one of {', '.join(SUFFIXES)}.")
    return suffix


def check_label(file: Path, image: Path, table: OrganTable | None = None) -> None:
    """Accepts a label map that is readable, on the grid of the image, and holds known organs only; it may be empty.

    Raises:
        InputError: what is wrong with it.
    """
    table = table or organ_table()
    suffix_of(file.name)
    grid = read_grid(image)
    _check_size(file, grid)
    labels = read_labels(file)
    if not labels.geometry.matches(grid):
        raise InputError(
            file.name,
            f"lies elsewhere than {image.name}: spacing or position differ.",
            "Resample the label map onto the image.",
        )
    held = np.zeros(256, bool)
    for plane in labels.array:  # counted by slice: counting turns voxels into eight bytes each
        held |= np.bincount(plane.ravel(), minlength=256) > 0
    strange = sorted(set(np.flatnonzero(held).tolist()) - {0, *table.indices})
    if strange:
        raise InputError(
            file.name, f"holds values {strange[:8]} that are not in the organ table.", "Use the numbers that /info lists."
        )


def _check_size(file: Path, grid: Geometry) -> None:
    """By the header, before anything is unpacked: a small file can unpack to more than the memory holds."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(file.name, "cannot be read as an image.", "Save it again; was it cut off?") from error
    sizes = [n for n in reader.GetSize() if n > 1]
    if reader.GetNumberOfComponents() != 1 or sorted(sizes) != sorted(n for n in grid.size if n > 1):
        raise InputError(
            file.name,
            f"has size {reader.GetSize()}, the image has {grid.size}.",
            "Send one label map on the grid of the image.",
        )
