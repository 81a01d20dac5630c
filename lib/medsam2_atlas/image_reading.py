"""Tasks of reader processes for images (see `decoding`); only reader processes call these functions.

ITK opens a file only after its header has been checked, with the one ITK reader that belongs to the file's suffix.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk

from medsam2_atlas.decoding import READABLE, check_length, check_same_size, check_voxels, checked_header, image_io
from medsam2_atlas.decoding.header import Header
from medsam2_atlas.errors import InputError
from medsam2_atlas.series import series_slices
from medsam2_atlas.volume import Geometry, Volume, from_sitk, upright

sitk.ProcessObject.GlobalWarningDisplayOff()
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # as many files are decoded at once as there are readers

Result = tuple[dict[str, Any], list[np.ndarray]]

_MAX_REMARKS, _MAX_REMARK = 20, 500


def volume(path: str) -> Result:
    """Returns a CT in LPS orientation as float32 HU; see `medsam2_atlas.volume.read_volume`."""
    remarks: list[str] = []
    image = _image(Path(path), remarks)
    voxels = sitk.GetArrayViewFromImage(image)
    if voxels.max() == voxels.min():  # checked before the cast to four bytes a voxel
        raise InputError(path, "is empty: all voxels have one value.", "Choose the CT itself.")
    kind = voxels.dtype
    del voxels
    grid = Geometry.of(image)
    if kind.itemsize > 4:
        image = sitk.Cast(image, sitk.sitkFloat32)
    image = sitk.DICOMOrient(image, "LPS")  # turned before the cast to four bytes a voxel
    image = sitk.Cast(image, sitk.sitkFloat32)
    found = Volume(sitk.GetArrayFromImage(image), Geometry.of(image), grid, path, remarks=tuple(remarks))
    if kind.kind == "f":
        _refuse_nan(path, found.array)
    return _told(found), [found.array]


def labels(path: str) -> Result:
    """Returns a label map in LPS orientation, unsigned 8-bit; see `medsam2_atlas.volume.read_labels`."""
    found = _labels(Path(path))
    return _told(found), [found.array]


def fingerprint(path: str) -> Result:
    """Returns a digest of a CT's voxels and its grid, both in LPS orientation; see `medsam2_atlas.storage.fingerprints`."""
    told, (array,) = volume(path)
    digest = hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()
    return {"voxels": digest, "geometry": told["geometry"]}, []


def grid(path: str) -> Result:
    """Returns the grid of an image in LPS orientation; see `medsam2_atlas.volume.read_grid`."""
    return {"geometry": asdict(_grid(Path(path)))}, []


def label_check(path: str, image: str) -> Result:
    """Returns the numbers that a label map holds, and a digest of its voxels and grid.

    Raises:
        InputError: it cannot be read, is not a label map, or lies on another grid than the image.
    """
    file = Path(path)
    check_same_size(file, Path(image))
    like = _grid(Path(image))
    found = _labels(file)
    if not found.geometry.matches(like):
        raise InputError(
            file.name,
            f"lies elsewhere than {Path(image).name}: spacing or position differ.",
            "Resample the label map onto the image.",
        )
    held = np.zeros(256, bool)
    for plane in found.array:  # slice by slice: counting takes eight bytes a voxel
        held |= np.bincount(plane.ravel(), minlength=256) > 0
    return {"held": np.flatnonzero(held).tolist(), "digest": found.digest}, []


def _told(found: Volume) -> dict[str, Any]:
    return {
        "geometry": asdict(found.geometry),
        "file_geometry": asdict(found.file_geometry),
        "remarks": [remark[:_MAX_REMARK] for remark in found.remarks[:_MAX_REMARKS]],
    }


def _labels(path: Path) -> Volume:
    remarks: list[str] = []
    found = replace(from_sitk(_image(path, remarks), str(path)), remarks=tuple(remarks))
    array = found.array
    whole = array.dtype.kind in "iub" or bool(np.isfinite(array).all() and (array == np.rint(array)).all())
    if not whole or array.min() < 0 or array.max() > 255:
        raise InputError(path, "is not a label map: its values are not whole numbers from 0 to 255.")
    return found.with_array(array.astype(np.uint8))


def _grid(path: Path) -> Geometry:
    if path.is_dir():
        return from_sitk(_image(path, []), str(path)).geometry
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io(path))
    with _for_itk(path, checked_header(path), voxels=False) as name, _itk_errors(path):
        reader.SetFileName(name)
        reader.ReadImageInformation()
    size = reader.GetSize()
    if len(size) < 3 or any(n > 1 for n in size[3:]):
        raise InputError(path, f"has size {size}, not three dimensions.", "Choose one phase, or the whole volume.")
    dimensions = len(size)
    direction = tuple(reader.GetDirection()[r * dimensions + c] for r in range(3) for c in range(3))
    try:
        return upright(Geometry(size[:3], reader.GetSpacing()[:3], reader.GetOrigin()[:3], direction))
    except (ValueError, RuntimeError) as error:
        raise InputError(path, f"lies on no usable grid ({error}).", "Export it again from its source.") from error


def _image(path: Path, remarks: list[str]) -> sitk.Image:
    """Returns the image of a file or folder; `remarks` is filled with what was mended, see `Volume`."""
    image = _series(path, remarks) if path.is_dir() else _file(path, remarks)
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(path, "holds several values per voxel.", "A CT or label map has one; export it as grey values.")
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if image.GetDimension() != 3:
        raise InputError(path, f"has {image.GetDimension()} dimensions, not 3.", "Choose one phase, or the whole volume.")
    if min(image.GetSize()) < 2:
        raise InputError(path, f"has size {image.GetSize()}: a volume needs at least two slices.", "Choose the whole series.")
    return image


def _file(path: Path, remarks: list[str]) -> sitk.Image:  # noqa: ARG001
    header = checked_header(path)
    check_length(path, header)
    with _for_itk(path, header) as name, _itk_errors(path):
        image = sitk.ReadImage(name, imageIO=image_io(path))
    if path.name.lower().endswith((".nii", ".nii.gz")) and image.GetPixelID() in (sitk.sitkFloat32, sitk.sitkFloat64):
        _refuse_hidden_nan(path)
    return image


def _refuse_hidden_nan(path: Path) -> None:
    """Refuses NaN and infinity in a NIfTI file, read with nibabel: ITK's reader silently turns them into 0."""
    _refuse_nan(path, np.asanyarray(nibabel.load(path).dataobj))


def _refuse_nan(path: str | Path, values: np.ndarray) -> None:
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise InputError(path, f"holds {bad} voxels that are NaN or infinite.", "Export it again from its source.")


def _series(folder: Path, remarks: list[str]) -> sitk.Image:  # noqa: ARG001
    slices = series_slices(folder)
    check_voxels(folder, sum(part.values for part in slices))
    with _itk_errors(folder):
        return sitk.ReadImage([str(part.file) for part in slices], imageIO="GDCMImageIO")


@contextmanager
def _for_itk(path: Path, header: Header, *, voxels: bool = True) -> Iterator[str]:
    """Yields the name of a file that ITK may open: this one, or one in memory with the canonical header and the voxels."""
    if not header.canonical:
        yield str(path)
        return
    with open(os.memfd_create("image"), "w+b") as copy:  # noqa: PTH123 a descriptor has no path
        copy.write(header.canonical)
        if voxels:
            with path.open("rb") as source:
                source.seek(header.offset)
                shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        yield f"/proc/self/fd/{copy.fileno()}"


@contextmanager
def _itk_errors(path: Path) -> Iterator[None]:
    """Raises the project's error for an image that ITK cannot read, and MemoryError if there is too little memory for it."""
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error).lower() for word in ("alloc", "memory")):
            raise MemoryError from error
        raise InputError(path, "cannot be read as an image.", f"Give a CT as {READABLE}.") from error
