"""Label maps of a series have the voxel order in which viewers load its instances."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from imaging.test_dicom_order import CODES, image_of
from medsam2_atlas.imaging.dicom_order import read_dicom_order
from medsam2_atlas.imaging.volume import read_volume, write_volume
from series_files import write_series


def as_in_viewers(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the voxels `[z, y, x]` in HU, and the position of each slice, in the order of cornerstone's volumes."""
    instances = [pydicom.dcmread(file) for file in random.Random(0).sample(files, len(files))]
    row, column = np.reshape(np.array(instances[0].ImageOrientationPatient, float), (2, 3))
    first = np.array(instances[0].ImagePositionPatient, float)

    def distance(instance: pydicom.Dataset) -> float:  # as cornerstone computes it; the largest comes first
        return float((first - np.array(instance.ImagePositionPatient, float)) @ np.cross(row, column))

    instances.sort(key=distance, reverse=True)
    voxels = np.stack([instance.pixel_array.astype(int) + int(instance.RescaleIntercept) for instance in instances])
    return voxels, np.array([instance.ImagePositionPatient for instance in instances], float)


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("code", CODES[::3])
def test_the_stored_volume_of_a_series_gives_the_order_of_its_instances(tmp_path: Path, code: str, oblique: bool) -> None:
    image = image_of(code, oblique)
    voxels, positions = as_in_viewers(write_series(tmp_path / "series", image))
    write_volume(read_volume(tmp_path / "series"), tmp_path / "ct.nii.gz")
    for file in (tmp_path / "ct.nii.gz", tmp_path / "series"):
        order = read_dicom_order(file, of_series=True)
        assert order.grid.shape == voxels.shape
        assert (order.to_viewer(read_volume(file).array) == voxels).all()
        corners = order.grid.to_world(np.array([[0, 0, z] for z in range(len(voxels))]))
        assert corners == pytest.approx(positions, abs=1e-3)
    labels = sitk.Cast(image, sitk.sitkUInt8)
    sitk.WriteImage(labels, str(tmp_path / "label.nii.gz"))
    assert (read_dicom_order(tmp_path / "ct.nii.gz", of_series=True).read_labels(tmp_path / "label.nii.gz") == voxels).all()
