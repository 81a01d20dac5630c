"""The tasks of reader processes for images (see `decoding`). Only reader processes call these functions.

ITK opens a file only after its header has been checked, and only with the ITK reader for the file's suffix.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import (
    check_length,
    check_same_size,
    checked_header,
    image_io,
    is_segmentation,
    read_segments,
    refuse_segmentation,
)
from medsam2_atlas.imaging.decoding.header import Header, broken, grey_values
from medsam2_atlas.imaging.decoding.nifti import NiftiHeader
from medsam2_atlas.imaging.decoding.nifti_voxels import nifti_voxels
from medsam2_atlas.imaging.decoding.sniff import is_dicom
from medsam2_atlas.imaging.kinds import SUFFIXES
from medsam2_atlas.imaging.same_grid import on_grid
from medsam2_atlas.imaging.slicer_segments import organ_map
from medsam2_atlas.imaging.volume import Geometry, Volume, from_sitk, grid_of_header, to_sitk, upright

sitk.ProcessObject.GlobalWarningDisplayOff()
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # each reader decodes one file at a time

Result = tuple[dict[str, Any], list[np.ndarray]]

_MAX_REMARKS, _MAX_REMARK = 20, 500
_WHOLE = 1e-3
"""Max distance of a label map's values from whole numbers. Scaled labels may be 5.9999999; averages are farther off."""


def volume(path: str) -> Result:
    """Returns a CT as `[z, y, x]` float32 in LPS orientation; see `medsam2_atlas.imaging.volume.read_volume`.

    Raises:
        InputError: the CT cannot be read, or all its voxels have one value.
    """
    image, grid, remarks = upright_ct(path)
    kind = sitk.GetArrayViewFromImage(image).dtype
    image = sitk.Cast(image, sitk.sitkFloat32)
    found = Volume(sitk.GetArrayFromImage(image), Geometry.of(image), grid, path, remarks=tuple(remarks))
    if kind.kind == "f":
        refuse_nan(path, found.array)
    return _summary(found), [found.array]


def upright_ct(path: str) -> tuple[sitk.Image, Geometry, list[str]]:
    """Returns a CT in LPS orientation with the values of its file (at most four bytes each), the grid of the file, and remarks.

    Raises:
        InputError: the CT cannot be read, or all its voxels have one value.
    """
    refuse_segmentation(Path(path))
    remarks: list[str] = []
    image = _image(Path(path), remarks)
    voxels = sitk.GetArrayViewFromImage(image)
    if voxels.max() == voxels.min():  # checked before the cast, which takes four bytes per voxel
        raise InputError(path, "is empty: all voxels have one value.", "Choose the CT itself.")
    kind = voxels.dtype
    del voxels
    grid = Geometry.of(image)
    if kind.itemsize > 4:
        image = sitk.Cast(image, sitk.sitkFloat32)
    return sitk.DICOMOrient(image, "LPS"), grid, remarks  # oriented before a cast, which takes four bytes per voxel


def labels(path: str, like: dict[str, Any] | None = None) -> Result:
    """Returns a label map as `[z, y, x]` uint8 in LPS orientation; see `medsam2_atlas.imaging.volume.read_labels`.

    Args:
        path: the label map.
        like: grid of the image in LPS orientation, to which a segmentation is padded; None to keep its own grid.

    Raises:
        InputError: the label map cannot be read, or is not a label map.
    """
    found = label_map(Path(path), Geometry.parse(like) if like else None)
    return _summary(found), [found.array]


def label_map(path: Path, like: Geometry | None = None) -> Volume:
    """Returns a label map as `[z, y, x]` uint8 in LPS orientation; see `labels`.

    Raises:
        InputError: the label map cannot be read, or is not a label map.
    """
    return _segmentation(path, like) if is_segmentation(path) else _labels(path)


def fingerprint(path: str) -> Result:
    """Returns a digest of a CT's voxels and its grid, both in LPS orientation; see `medsam2_atlas.storage.fingerprints`."""
    summary, (array,) = volume(path)
    digest = hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()
    return {"voxels": digest, "geometry": summary["geometry"]}, []


def grid(path: str) -> Result:
    """Returns the grid of an image, in LPS orientation and as filed; see `medsam2_atlas.imaging.volume.read_grid`."""
    geometry, filed = _grids(Path(path))
    return {"geometry": asdict(geometry), "file_geometry": asdict(filed)}, []


def label_check(path: str, image: str) -> Result:
    """Returns the numbers in a label map, a digest of its voxels and grid, and remarks on corrections during reading.

    Args:
        path: the label map.
        image: its image, of which only the grid is read.

    Raises:
        InputError: the label map cannot be read, is not a label map, or has a different grid from the image.
    """
    file = Path(path)
    check_same_size(file, Path(image))
    like, _ = _grids(Path(image))
    found = label_map(file, like)
    if not is_segmentation(file):
        found = on_grid(replace(found, source=file.name), like, like, Path(image).name)
    held = np.zeros(256, bool)
    for plane in found.array:  # slice by slice: counting takes eight bytes per voxel
        held |= np.bincount(plane.ravel(), minlength=256) > 0
    return {"held": np.flatnonzero(held).tolist(), "digest": found.digest, "remarks": _summary(found)["remarks"]}, []


def _summary(found: Volume) -> dict[str, Any]:
    """Returns the grids and remarks of a volume for the calling process."""
    return {
        "geometry": asdict(found.geometry),
        "file_geometry": asdict(found.file_geometry),
        "remarks": [remark[:_MAX_REMARK] for remark in found.remarks[:_MAX_REMARKS]],
    }


def _labels(path: Path) -> Volume:
    remarks: list[str] = []
    found = from_sitk(_image(path, remarks), str(path))
    array = _whole_numbers(path, found.array, remarks)
    return replace(found, array=array, remarks=tuple(remarks))


def _whole_numbers(path: Path, array: np.ndarray, remarks: list[str]) -> np.ndarray:
    """Returns the values of a label map as uint8; values within 0.001 of whole numbers are rounded."""
    whole, worst = np.empty(array.shape, np.uint8), 0.0
    for plane, target in zip(array, whole, strict=True):  # slice by slice: floats take up to eight bytes per voxel
        rounded, off = plane, 0.0
        if plane.dtype.kind == "f":
            rounded = np.rint(plane)
            with np.errstate(invalid="ignore"):
                off = float(np.abs(plane - rounded).max())  # NaN if a value is NaN or infinite
        if not off <= _WHOLE or rounded.min() < 0 or rounded.max() > 255:
            problem = "is not a label map: its values are not whole numbers from 0 to 255."
            raise InputError(path, problem, "Save organ numbers; convert probabilities to labels by a threshold.")
        worst = max(worst, off)
        target[...] = rounded
    if worst:
        remarks.append(f"Its values are up to {worst:.1g} from whole numbers; they were rounded.")
    return whole


def _segmentation(path: Path, like: Geometry | None) -> Volume:
    remarks: list[str] = []
    segments = read_segments(path, checked_header(path))
    found = organ_map(path, _file(path, remarks), segments, like)
    return replace(found, remarks=(*remarks, *found.remarks))


def _grids(path: Path) -> tuple[Geometry, Geometry]:
    """Returns the grid of an image in LPS orientation, and the grid in its file or series."""
    if _is_series(path):
        from medsam2_atlas.dicom.series import find_series  # imported here, because `dicom` imports this package

        filed = find_series(path).grid
        return upright(filed), filed
    refuse_segmentation(path)
    header = checked_header(path)
    filed = grid_of_header(path, header)
    try:
        return upright(filed), filed
    except (ValueError, RuntimeError) as error:
        raise InputError(path, f"has no usable grid ({error}).", "Export it again from its source.") from error


def _image(path: Path, remarks: list[str]) -> sitk.Image:
    """Returns the image of a file or folder; adds corrections to `remarks`, see `Volume`."""
    image = _series(path, remarks) if _is_series(path) else _file(path, remarks, grey=True)
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(path, "contains several values per voxel.", "A CT or label map has one; export it as grey values.")
    if image.GetDimension() != 3:
        raise InputError(path, f"has {image.GetDimension()} dimensions, not 3.", "Choose one phase, or the whole volume.")
    if min(image.GetSize()) < 2:
        raise InputError(path, f"has size {image.GetSize()}: a volume needs at least two slices.", "Choose the whole series.")
    return image


def _file(path: Path, remarks: list[str], *, grey: bool = False) -> sitk.Image:
    """Returns the image of a file on its checked grid. grey: whether several values per voxel are refused before decoding."""
    header = checked_header(path)
    grid = grid_of_header(path, header)
    if grey:
        grey_values(path, header.components, header.component_kind)
    remarks += [*header.remarks, *(header.grid.remarks if header.grid else ())]
    if isinstance(header, NiftiHeader):
        image = sitk.GetImageFromArray(nifti_voxels(path, header))
    else:
        check_length(path, header)
        with _for_itk(path, header) as name, _itk_errors(path):
            image = sitk.ReadImage(name, imageIO=image_io(path))
    if image.GetSize() != grid.size:
        raise broken(path, f"its header gives size {grid.size}, ITK reads {image.GetSize()}")
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def refuse_nan(path: str | Path, values: np.ndarray) -> None:
    """Refuses values of any shape that are NaN or infinite.

    Raises:
        InputError: there are such values.
    """
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise InputError(path, f"contains {bad} voxels that are NaN or infinite.", "Export it again from its source.")


def _is_series(path: Path) -> bool:
    """Returns whether a path is a DICOM series: a folder, or a DICOM file, which represents its series."""
    return path.is_dir() or (path.is_file() and not path.name.lower().endswith(SUFFIXES) and is_dicom(path))


def _series(path: Path, remarks: list[str]) -> sitk.Image:
    from medsam2_atlas.dicom.series import find_series
    from medsam2_atlas.dicom.series.pixels import hounsfield

    series = find_series(path)
    remarks.extend(series.remarks)
    return to_sitk(hounsfield(series), series.grid)


@contextmanager
def _for_itk(path: Path, header: Header) -> Iterator[str]:
    """Yields the name of a file in memory with the canonical header and the voxels, which ITK may open."""
    with open(os.memfd_create("image"), "w+b") as copy:  # noqa: PTH123 a descriptor has no path
        copy.write(header.canonical)
        with path.open("rb") as source:
            source.seek(header.offset)
            shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        yield f"/proc/self/fd/{copy.fileno()}"


@contextmanager
def _itk_errors(path: Path) -> Iterator[None]:
    """Turns ITK's errors into the project's InputError, or into MemoryError if the memory does not suffice for the image."""
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error).lower() for word in ("alloc", "memory")):
            raise MemoryError from error
        reason = _reason(str(error))
        raise InputError(path, f"cannot be read as an image: {reason}.", "Export it again from its source.") from error


def _reason(text: str) -> str:
    """Returns the last line of ITK's message, without paths of its source, addresses and names of files in memory."""
    line = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "ITK gives no reason")
    line = re.sub(r"^(?:ITK|sitk::) ?ERROR: |\(0x[0-9a-f]+\)|(?:/[\w.+-]+){2,}(?::\d+:?)?", "", line)
    return re.sub(r"[^ -~]+", " ", line).strip(" :.")[:300] or "ITK gives no reason"
