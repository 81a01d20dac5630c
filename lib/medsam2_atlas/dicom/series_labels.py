"""Converts label maps to the grid of a DICOM series, in the order of its slices."""

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
    """Reads a label map, with its voxels in the order of its image's voxels. The file may have other axes.

    Args:
        label: the label map's file.
        image: the folder of the series, or a volume made from it.

    Raises:
        InputError: a file cannot be read, or the label map does not fit the image.
    """
    like = read_volume(image)
    return like.with_array(read_labels(label, like).array).restored()


def on_series(labels: sitk.Image, series: Path | Sequence[Dataset], table: OrganTable) -> tuple[Sequence[Dataset], np.ndarray]:
    """Returns the headers of a series, and the voxels of a label map on its slices.

    Args:
        labels: the label map.
        series: the folder of the series, or its headers from `source_headers`.
        table: the organs.

    Returns:
        The headers in the order of the slices, and the voxels, `[slices, rows, columns]` uint8.

    Raises:
        InputError: the series is not a volume, or the label map has another shape or values that are not in the table.
    """
    import SimpleITK as sitk

    sources = source_headers(series) if isinstance(series, Path) else series
    masks = sitk.GetArrayFromImage(labels).astype(np.uint8)
    shape = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    if masks.shape != shape:
        raise InputError("label map", f"has shape {masks.shape}, the series {shape}.", "Resample the label map onto the image.")
    unknown = sorted({int(v) for v in np.unique(masks)} - {0, *table.indices})
    if unknown:
        raise InputError(
            "label map",
            f"contains values {unknown} that are not in the organ table.",
            "Use the numbers of configs/labels.yaml.",
        )
    return sources, masks


def seg_to_file(seg: Path, series: Path, image: Path, file: Path) -> None:
    """Writes the label map of a DICOM SEG to an image file. A reader process decodes the SEG.

    Args:
        seg: the DICOM file.
        series: the folder of the series that it refers to.
        image: a volume made from the series.
        file: the image file to write.

    Raises:
        InputError: the object is not a SEG of this series, or a segment that is not an organ is not empty.
    """
    import SimpleITK as sitk

    grid = read_volume(image).file_geometry
    _, (array,) = run_task("dicom_seg", seg, path=str(seg), folder=str(series))
    if array.shape != grid.shape:
        raise InputError("segmentation", "does not fit the series.", "Segment the series itself.")
    sitk.WriteImage(to_sitk(array, grid), str(file))
