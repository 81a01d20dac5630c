"""Writes image files with ITK."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from files.kind import HU, Writer, image


def written(name: str, array: np.ndarray = HU, *, turned: str = "LPS", compress: bool = False) -> Writer:
    """Returns a function that writes a file with the ITK writer for its suffix.

    Args:
        name: name of the file.
        array: the voxels, `[z, y, x]` in LPS.
        turned: orientation of the file, such as `RAS`.
        compress: whether the voxels are compressed.
    """

    def write(folder: Path) -> Path:
        sitk.WriteImage(sitk.DICOMOrient(image(array), turned), str(folder / name.lower()), useCompression=compress)
        return (folder / name.lower()).rename(folder / name)  # ITK does not write names in upper case

    return write
