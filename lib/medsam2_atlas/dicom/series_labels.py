"""Label maps on the grid of a DICOM series, in the order of its slices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.volume import read_labels, read_volume, to_sitk

if TYPE_CHECKING:
    import SimpleITK as sitk


def labels_of_series(label: Path, image: Path) -> sitk.Image:
    """Returns a label map with its voxels in the order of its image's; it may have been saved with other axes.

    Args:
        label: the label map.
        image: the series' folder, or the volume that was made of it.

    Raises:
        InputError: one of them cannot be read, or they do not fit.
    """
    like = read_volume(image)
    return like.with_array(read_labels(label, like).array).restored()


def seg_to_file(seg: Path, series: Path, image: Path, file: Path) -> None:
    """Writes the label map of a DICOM SEG, which is decoded in a reader process.

    Args:
        seg: the DICOM file.
        series: folder of the series that it refers to.
        image: the volume that was made of the series.
        file: to write, an image file.

    Raises:
        InputError: not a SEG of this series, or a segment that is not empty and not an organ.
    """
    import SimpleITK as sitk

    grid = read_volume(image).file_geometry
    _, (array,) = run_task("dicom_seg", seg, path=str(seg), folder=str(series))
    if array.shape != grid.shape:
        raise InputError("segmentation", "does not fit the series.", "Segment the series itself.")
    sitk.WriteImage(to_sitk(array, grid), str(file))
