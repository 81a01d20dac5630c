"""The voxel order of a CT in viewers: every orientation, oblique grids, marks and label maps there and back."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.dicom_order import DicomOrder, read_dicom_order
from medsam2_atlas.imaging.volume import Geometry, read_volume, to_sitk, write_volume

CODES = ["".join(letters) for axes in itertools.permutations(("RL", "AP", "IS")) for letters in itertools.product(*axes)]
TILT = np.array([[0.9362934, -0.2896295, 0.1986693], [0.3129918, 0.9447025, -0.0978434], [-0.1593451, 0.1537920, 0.9751703]])


def image_of(code: str, oblique: bool) -> sitk.Image:
    """Returns a CT of the given orientation, whose voxels all differ."""
    axes = np.zeros((3, 3))
    for axis, letter in enumerate(code):
        axes["RLAPIS".index(letter) // 2, axis] = -1 if letter in "RAI" else 1
    rotation = np.linalg.qr(TILT)[0] * np.sign(np.diag(np.linalg.qr(TILT)[1])) if oblique else np.eye(3)
    array = np.random.default_rng(0).permutation(3 * 4 * 5).reshape(3, 4, 5).astype(np.int16)
    direction = tuple((rotation @ axes).ravel().tolist())
    return to_sitk(array, Geometry((5, 4, 3), (0.7, 0.9, 5.0), (3.0, -20.0, 11.0), direction))


def at_points(order: DicomOrder, array: np.ndarray, image: sitk.Image) -> np.ndarray:
    """Returns the image's voxels at the points of a viewer's array, `[z, y, x]`, found by SimpleITK."""
    voxels = np.empty(array.shape, np.int16)
    for z, y, x in np.ndindex(*array.shape):
        point = order.grid.to_world(np.array([x, y, z]))
        voxels[z, y, x] = image.GetPixel(image.TransformPhysicalPointToIndex(point.tolist()))
    return voxels


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("code", CODES)
def test_each_voxel_of_a_viewer_is_at_its_point_of_the_file(tmp_path: Path, code: str, oblique: bool) -> None:
    image, file = image_of(code, oblique), tmp_path / "ct.nii.gz"
    sitk.WriteImage(image, str(file))
    volume, stored = read_volume(file), sitk.GetArrayFromImage(image)
    left_handed = np.linalg.det(np.reshape(image.GetDirection(), (3, 3))) < 0
    for of_series, expected in ((False, volume.array), (True, stored[::-1] if left_handed else stored)):
        order = read_dicom_order(file, of_series=of_series)
        assert order.lps.matches(volume.geometry)
        assert order.filed.matches(volume.file_geometry)
        shown = order.to_viewer(volume.array)
        assert (shown == expected).all()
        assert (shown == at_points(order, shown, image)).all()
        assert np.linalg.det(np.reshape(order.grid.direction, (3, 3))) == pytest.approx(1)
        assert order.turn.spacing(order.lps) == pytest.approx(order.grid.spacing[::-1])
        labels = (shown % 16).astype(np.uint8)
        write_volume(order.to_volume(labels), tmp_path / "label.nii.gz")
        assert (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "label.nii.gz"))) == stored % 16).all()
        assert (order.read_labels(tmp_path / "label.nii.gz") == labels).all()
        for z, y, x in np.random.default_rng(0).integers(shown.shape, size=(4, 3)):
            assert image.GetPixel(order.to_file_indices([int(x), int(y), int(z)])) == shown[z, y, x]


def test_label_maps_of_another_orientation_than_the_ct_are_accepted(tmp_path: Path) -> None:
    image = image_of("PIR", True)
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
    order = read_dicom_order(tmp_path / "ct.nii.gz", of_series=False)
    label = sitk.DICOMOrient(sitk.Cast(image, sitk.sitkUInt8), "RAS")
    sitk.WriteImage(label, str(tmp_path / "label.nrrd"))
    shown = order.to_viewer(read_volume(tmp_path / "ct.nii.gz").array)
    assert (order.read_labels(tmp_path / "label.nrrd") == shown).all()
    other = image_of("LPS", False)
    sitk.WriteImage(sitk.Cast(other, sitk.sitkUInt8), str(tmp_path / "other.nii.gz"))
    with pytest.raises(InputError, match="different grid"):
        order.read_labels(tmp_path / "other.nii.gz")


def test_lists_of_marks_keep_their_nesting(tmp_path: Path) -> None:
    sitk.WriteImage(image_of("RAS", False), str(tmp_path / "ct.nii.gz"))
    order = read_dicom_order(tmp_path / "ct.nii.gz", of_series=False)
    assert order.to_file_indices([[[0, 0, 0], [4, 3, 0]]]) == [[[4, 3, 0], [0, 0, 0]]]
    assert order.to_file_indices([]) == []
    assert order.to_file_indices([1.2, 0, 0]) == [3, 3, 0]
    for wrong in (
        "x",
        3,
        {"a": 1},
        [1, 2],
        [1, 2, "3"],
        [1, 2, float("nan")],
        [1, 2, 1e30],
        [[1, 2, 3], 4],
        [True, 1, 1],
        [None],
    ):
        with pytest.raises(InputError, match="marks"):
            order.to_file_indices(wrong)


def test_an_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(image_of("LPS", False), str(tmp_path / "ct.nii.gz"))
    with pytest.raises(ValueError, match="does not fit"):
        read_dicom_order(tmp_path / "ct.nii.gz", of_series=False).to_volume(np.zeros((4, 4, 5), np.uint8))
