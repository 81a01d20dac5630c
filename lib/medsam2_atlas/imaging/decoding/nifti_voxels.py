"""Decodes the voxels of NIfTI files with NumPy. Only reader processes use this module."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medsam2_atlas.imaging.decoding.nifti import NiftiHeader
from medsam2_atlas.imaging.decoding.packed import check_length, unpack_into


def nifti_voxels(file: Path, header: NiftiHeader) -> np.ndarray:
    """Decodes the voxels of a NIfTI file.

    Returns:
        The values, `[z, y, x]` along the file's axes; further axes of the file come first. They have the file's type; scaled
        integers become float32.

    Raises:
        InputError: the file is cut off, its packed part is damaged, or it unpacks to far more than its header claims.
        OSError: the file cannot be read.
    """
    dtype = np.dtype(header.dtype)
    if header.encoding == "raw":
        check_length(file, header)
        with file.open("rb") as stream:
            stream.seek(header.offset)
            flat = np.fromfile(stream, dtype, header.values)
    else:
        flat = np.empty(header.values, dtype)
        unpack_into(file, header, flat.view(np.uint8).data)
    array = flat.reshape(header.axes[::-1])
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    if header.slope == 1.0 and header.intercept == 0.0:
        return array
    scaled = array if dtype.kind == "f" else np.empty(array.shape, np.float32)
    for values, plane in zip(array, scaled, strict=True):  # slice by slice: the calculation takes eight bytes per voxel
        with np.errstate(over="ignore"):
            plane[...] = (
                values.astype(np.float32 if dtype.kind != "f" else dtype).astype(float) * header.slope + header.intercept
            )
    return scaled
