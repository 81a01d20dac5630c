"""Label maps on the grid of a DICOM series, in the order of its slices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom.headers import source_headers
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.labels import OrganTable
from medsam2_atlas.imaging.volume import read_labels, read_volume, to_sitk

if TYPE_CHECKING:
    import SimpleITK as sitk
    from pydicom.dataset import Dataset


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


def on_series(labels: sitk.Image, series: Path | Sequence[Dataset], table: OrganTable) -> tuple[Sequence[Dataset], np.ndarray]:
    """Returns the headers of a series, and the voxels of a label map that lies on its slices.

    Args:
        labels: the label map.
        series: folder with the series' files, or its headers as `source_headers` completes them.
        table: the organs.

    Returns:
        The headers in the order of the slices, and the voxels `[slices, rows, columns]`, uint8.

    Raises:
        InputError: the series makes no volume, or the label map has another shape, or values that are not in the table.
    """
    import SimpleITK as sitk

    sources = source_headers(series) if isinstance(series, Path) else series
    masks = sitk.GetArrayFromImage(labels).astype(np.uint8)
    shape = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    if masks.shape != shape:
        raise InputError("label map", f"has shape {masks.shape}, the series {shape}.", "Resample the label map onto the image.")
    strange = sorted({int(v) for v in np.unique(masks)} - {0, *table.indices})
    if strange:
        raise InputError("label map", f"holds values {strange} that are not in the organ table.")
    return sources, masks


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
