"""Label maps are returned in the order of their series' slices; a stored SEG becomes a file on the series' grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom import LabelOrigin, labels_of_series, seg_to_file, write_seg
from medsam2_atlas.imaging.volume import read_labels, read_volume, write_volume
from series_files import upright, write_series

ARRAY = np.random.default_rng(2).integers(-1000, 1000, (6, 20, 24))


@pytest.fixture
def series(tmp_path: Path) -> Path:
    write_series(tmp_path / "series", upright(ARRAY))
    write_volume(read_volume(tmp_path / "series"), tmp_path / "image.nii.gz")
    return tmp_path / "series"


def drawn(file: Path) -> sitk.Image:
    """Writes a label map with a liver in one corner, with other axes than the series, and returns it in the series' order."""
    array = np.zeros(ARRAY.shape, np.uint8)
    array[1:3, 2:9, 3:12] = 6
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(upright(ARRAY))
    sitk.WriteImage(sitk.DICOMOrient(image, "RPI"), str(file))
    return image


def test_other_axes_are_put_in_the_order_of_the_series(series: Path, tmp_path: Path) -> None:
    expected = drawn(tmp_path / "label.nii.gz")
    for image in (series, tmp_path / "image.nii.gz"):
        found = labels_of_series(tmp_path / "label.nii.gz", image)
        assert (sitk.GetArrayFromImage(found) == sitk.GetArrayFromImage(expected)).all()


def test_a_stored_seg_becomes_its_label_map(series: Path, tmp_path: Path) -> None:
    drawn(tmp_path / "label.nii.gz")
    labels = labels_of_series(tmp_path / "label.nii.gz", series)
    write_seg(labels, series, LabelOrigin("final", 1)).save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    seg_to_file(tmp_path / "seg.dcm", series, tmp_path / "image.nii.gz", tmp_path / "back.nii.gz")
    back, sent = (read_labels(tmp_path / name, image=series) for name in ("back.nii.gz", "label.nii.gz"))
    assert (back.array == sent.array).all()


def test_a_seg_of_another_volume_is_refused(series: Path, tmp_path: Path) -> None:
    drawn(tmp_path / "label.nii.gz")
    labels = labels_of_series(tmp_path / "label.nii.gz", series)
    write_seg(labels, series, LabelOrigin("final", 1)).save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    sitk.WriteImage(upright(ARRAY[:-1]), str(tmp_path / "shorter.nii.gz"))
    with pytest.raises(InputError, match="does not fit the series"):
        seg_to_file(tmp_path / "seg.dcm", series, tmp_path / "shorter.nii.gz", tmp_path / "back.nii.gz")
