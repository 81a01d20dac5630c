"""Checks an image file's header before any library opens the file."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding.extent import check_extent
from medsam2_atlas.imaging.decoding.header import Header, grey_values
from medsam2_atlas.imaging.decoding.limits import DecodingLimits
from medsam2_atlas.imaging.decoding.metaimage import metaimage_header
from medsam2_atlas.imaging.decoding.nifti import nifti_header
from medsam2_atlas.imaging.decoding.nrrd import nrrd_header
from medsam2_atlas.imaging.decoding.segments import has_named_segments
from medsam2_atlas.imaging.kinds import SEGMENTATION

__all__ = [
    "READABLE",
    "check_extent",
    "check_same_size",
    "check_voxels",
    "checked_header",
    "image_io",
    "is_segmentation",
    "refuse_segmentation",
    "set_limits",
]

READABLE = "NIfTI (.nii, .nii.gz), NRRD, MHA or a DICOM series (its folder, or one of its files)"
_LARGEST_SEGMENTATION = 4
"""Max number of voxels of a segmentation, as a multiple of its image's."""

_FORMATS: tuple[tuple[str, Callable[[Path], Header]], ...] = (
    (".nii.gz", nifti_header),
    (".nii", nifti_header),
    (".nrrd", nrrd_header),
    (".mha", metaimage_header),
)
_ITK = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO"}

_limits = DecodingLimits()


def set_limits(limits: DecodingLimits) -> None:
    """Sets the limits for files in this process."""
    global _limits
    _limits = limits


def checked_header(file: Path) -> Header:
    """Returns the header of an image file after checking that the file may be decoded.

    Raises:
        InputError: the file is not regular, is of unknown type, has a header that is malformed or names other files, has more
            voxels than the limits allow, or is larger than any CT.
        OSError: the file cannot be read.
    """
    if not file.is_file():  # reading a pipe or a device might never end
        raise InputError(file, "is not a file." if file.exists() else "does not exist.", "Check the path.")
    if file.stat().st_size == 0:
        raise InputError(file, "is empty (0 bytes).", "Copy it again.")
    for suffix, read in _FORMATS:
        if file.name.lower().endswith(suffix):
            header = read(file)
            check_voxels(file, header.values)
            if header.grid is not None:
                check_extent(file, header.axes, header.grid.spacing)
            return header
    raise InputError(file, "cannot be read as an image: its type is unknown.", f"Give {READABLE}.")


def is_segmentation(file: Path) -> bool:
    """Returns whether a file is a segmentation: by its suffix, or for other NRRD files by the segments' names in its header.

    A `.nrrd` file whose segments have only Slicer's default names, such as Segment_1, is a label map, because its values carry
    more information. The result is False for an unreadable file; reading it as an image reports the problem.
    """
    name = file.name.lower()
    if name.endswith(SEGMENTATION):
        return True
    try:
        return name.endswith(".nrrd") and has_named_segments(checked_header(file))
    except (InputError, OSError):
        return False


def refuse_segmentation(file: Path) -> None:
    """Raises an error if a file is a segmentation although a CT is expected.

    Raises:
        InputError: the file is a segmentation.
    """
    if is_segmentation(file):
        raise InputError(file, "is a segmentation from 3D Slicer, not a CT.", "Choose the CT that was segmented.")


def check_voxels(path: Path, voxels: int) -> None:
    """Checks that an image claims no more voxels than the limits allow.

    Args:
        path: the image, for the message.
        voxels: the number of voxels in its header.

    Raises:
        InputError: the header claims more voxels.
    """
    if voxels > _limits.voxels:
        raise InputError(
            path,
            f"claims {voxels / 1e6:.0f} million voxels; the limit is {_limits.voxels_million}.",
            "Crop or resample it, or raise the limit (`reader_voxels_million` in configs/server.yaml).",
        )


def check_same_size(file: Path, image: Path) -> None:
    """Checks from the headers alone that a label map has the same numbers of voxels along its axes, in any order, as an image.

    This check is fast. Only a label map that passes it is decoded by a reader, which compares the grids. Segmentations may have
    other sizes, with up to four times as many voxels: 3D Slicer crops them, lets them extend beyond the image, and stores
    overlapping segments in layers.

    Raises:
        InputError: the sizes differ, or a header cannot be used.
        OSError: a file cannot be read.
    """
    label, like = checked_header(file), checked_header(image)
    if is_segmentation(file):
        if prod(label.axes) > _LARGEST_SEGMENTATION * prod(like.axes):
            problem = f"has size {label.axes}, the image has {like.axes}."
            raise InputError(file.name, problem, "Choose the segmentation of this CT.")
        return
    grey_values(file.name, label.components, label.component_kind)
    if sorted(label.axes) == sorted(like.axes):
        return
    if label.grid is None or like.grid is None:
        raise InputError(
            file.name, f"has size {label.axes}, the image has {like.axes}.", "Send one label map on the grid of the image."
        )
    from medsam2_atlas.imaging.same_grid import another_grid
    from medsam2_atlas.imaging.volume import grid_of_header, upright  # imports ITK, which only the error needs

    first, second = upright(grid_of_header(file, label)), upright(grid_of_header(image, like))
    raise another_grid(file.name, first, second, image.name)


def image_io(file: Path) -> str:
    """Returns the name of the ITK reader for a checked file. ITK's own choice is not used, as it depends on the content."""
    return _ITK[file.suffix.lower()]
