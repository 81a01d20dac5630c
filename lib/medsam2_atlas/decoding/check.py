"""Checks an image file's header before any library opens the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from medsam2_atlas.decoding.header import Header
from medsam2_atlas.decoding.limits import DecodingLimits
from medsam2_atlas.decoding.metaimage import metaimage_header
from medsam2_atlas.decoding.nifti import nifti_header
from medsam2_atlas.decoding.nrrd import nrrd_header
from medsam2_atlas.errors import InputError

READABLE = "NIfTI (.nii, .nii.gz), NRRD, MHA or a folder with one DICOM series"

_FORMATS: tuple[tuple[str, Callable[[Path], Header], str], ...] = (
    (".nii.gz", nifti_header, "NiftiImageIO"),
    (".nii", nifti_header, "NiftiImageIO"),
    (".nrrd", nrrd_header, "NrrdImageIO"),
    (".mha", metaimage_header, "MetaImageIO"),
)


MAX_EXTENT_MM = 2500.0
"""Longer than any CT, of the whole body too."""
MIN_SPACING_MM = 0.02
"""Finer than any CT of a patient: photon-counting scanners reach 0.1 mm."""

_limits = DecodingLimits()


def set_limits(limits: DecodingLimits) -> None:
    """Sets the limits for files, for this process."""
    global _limits
    _limits = limits


def checked_header(file: Path) -> Header:
    """Returns the header of an image file that may be decoded.

    Raises:
        InputError: not a regular file, an unknown type, a header that is malformed or names other files, or more voxels
            than the limits allow.
        OSError: the file cannot be read.
    """
    if not file.is_file():  # reading a pipe or a device might never end
        raise InputError(file, "is not a file." if file.exists() else "does not exist.")
    if file.stat().st_size == 0:
        raise InputError(file, "is empty (0 bytes).", "Copy it again.")
    for suffix, read, _ in _FORMATS:
        if file.name.lower().endswith(suffix):
            header = read(file)
            check_voxels(file, header.values)
            return header
    raise InputError(file, "cannot be read as an image: its type is not known.", f"Give {READABLE}.")


def check_voxels(path: Path, voxels: int) -> None:
    """Checks that an image claims no more voxels than the limits allow.

    Raises:
        InputError: it claims more.
    """
    if voxels > _limits.voxels:
        raise InputError(
            path,
            f"claims {voxels / 1e6:.0f} million voxels; the limit is {_limits.voxels_million}.",
            "Crop or resample it, or raise the limit (`reader_voxels_million` in configs/server.yaml).",
        )


def check_extent(path: Path, sizes: Sequence[int], spacing: Sequence[float]) -> None:
    """Checks that an image is no larger than a CT can be: with spacing of a wrong unit, resampling asks for tens of GB.

    Args:
        path: of the image, for the message.
        sizes: voxels along its axes, (x, y, z) or more.
        spacing: mm along the same axes.

    Raises:
        InputError: an axis is longer than 2.5 m, or its spacing is below 0.02 mm; the message names the spacing.
    """
    length = max(n * step for n, step in zip(sizes, spacing, strict=False))
    told = "(" + ", ".join(f"{step:.4g}" for step in spacing) + ") mm"
    if length > MAX_EXTENT_MM:
        cause = "Is it ten times too large?" if length <= 10 * MAX_EXTENT_MM else "Is it in µm?"
        problem = f"would be {length / 1000:.3g} m long: its voxel spacing is {told}. {cause}"
    elif min(spacing) < MIN_SPACING_MM:
        cause = "Is it in metres?" if max(spacing) < MIN_SPACING_MM else "No CT has such fine voxels."
        problem = f"has voxels finer than {MIN_SPACING_MM} mm: its voxel spacing is {told}. {cause}"
    else:
        return
    raise InputError(path, problem, "Export the image again with its spacing in mm.")


def check_same_size(file: Path, image: Path) -> None:
    """Checks by the headers alone that a label map has as many voxels along its axes, in any order, as an image.

    Raises:
        InputError: it has not, or a header cannot be used.
        OSError: a file cannot be read.
    """
    sizes, like = (checked_header(path).sizes for path in (file, image))
    if sorted(n for n in sizes if n > 1) != sorted(n for n in like if n > 1):
        raise InputError(file.name, f"has size {sizes}, the image has {like}.", "Send one label map on the grid of the image.")


def image_io(file: Path) -> str:
    """Returns the name of the ITK reader for a checked file. ITK's own choice depends on the content, so it is not used."""
    return next(io for suffix, _, io in _FORMATS if file.name.lower().endswith(suffix))
