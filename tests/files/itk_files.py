"""Files that ITK writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from files.kind import HU, Writer, image


def written(name: str, array: np.ndarray = HU, *, turned: str = "LPS", compress: bool = False) -> Writer:
    """A file by the ITK writer for its suffix. turned: an orientation code such as `RAS`, to which its axes are turned."""

    def write(folder: Path) -> Path:
        sitk.WriteImage(sitk.DICOMOrient(image(array), turned), str(folder / name.lower()), useCompression=compress)
        return (folder / name.lower()).rename(folder / name)  # ITK writes no names in upper case

    return write
