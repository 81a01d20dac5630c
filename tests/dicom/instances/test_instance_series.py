"""The CT of a study as DICOM instances: UIDs, headers and files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import UID

from medsam2_atlas.base.study_hash import study_key
from medsam2_atlas.dicom import LabelOrigin, write_seg
from medsam2_atlas.dicom.instances import FolderUids, InstanceSeries, StudyAbout, slice_picture
from medsam2_atlas.imaging.volume import Geometry, read_volume
from oriented_files import rotation, small_ct

GRID = Geometry((4, 3, 5), (0.7, 0.8, 2.5), (-10.0, 20.0, -300.0), tuple(rotation((8.0, 3.0, -12.0)).ravel().tolist()))
UIDS = FolderUids(b"k" * 32)


def series_of(grid: Geometry = GRID, slope: float = 1.0) -> InstanceSeries:
    return InstanceSeries(StudyAbout.of("ct_001", UIDS, grid.size), UIDS.volume("ct_001", "abc"), grid, slope)


def test_uids_are_valid_and_the_same_for_the_same_key() -> None:
    made = [UIDS.study("a"), UIDS.series("a"), UIDS.frame_of_reference("a"), UIDS.volume("a", "0") + ".999999"]
    assert all(UID(uid).is_valid and len(uid) <= 64 for uid in made)
    assert len(set(made)) == 4
    assert made[:3] == [FolderUids(b"k" * 32).study("a"), FolderUids(b"k" * 32).series("a"), UIDS.frame_of_reference("a")]


def test_uids_differ_between_names_images_and_folders() -> None:
    assert UIDS.study("a") != UIDS.study("b")
    assert UIDS.study("a") != FolderUids(b"x" * 32).study("a")
    assert UIDS.volume("a", "0") != UIDS.volume("a", "1")
    assert UIDS.volume("a", "0") != UIDS.volume("0", "a")
    assert UIDS.volume("b", "1/a") != UIDS.volume("a/b", "1")


def test_two_opens_of_a_folder_have_the_same_uids(tmp_path: Path) -> None:
    first, second = (FolderUids(study_key(tmp_path / ".medsam2_atlas")) for _ in range(2))
    assert first.series("Müller 3") == second.series("Müller 3")


@pytest.mark.parametrize("uid", ["", "1.2.3", ".1", "{v}.0", "{v}.6", "{v}.01", "{v}.1.1", "{v}", "{v}.x", "{v}.-1", "{v}.٣"])
def test_other_uids_belong_to_no_instance(uid: str) -> None:
    series = series_of()
    assert series.number_of(uid.format(v=series.volume)) is None


def test_each_instance_has_its_own_uid_number_and_position() -> None:
    series = series_of()
    for number, item in enumerate(series.metadata(), 1):
        assert series.number_of(item["00080018"]["Value"][0]) == number
        assert item["00200013"]["Value"] == [number]
        np.testing.assert_allclose(item["00200032"]["Value"], GRID.to_world(np.array([0, 0, number - 1])), atol=1e-9)
    assert number == 5


def test_metadata_contain_the_window_and_nothing_private() -> None:
    item = series_of(slope=0.0625).json(1)
    assert (item["00281051"]["Value"], item["00281050"]["Value"]) == ([400], [40])
    assert item["00281053"]["Value"] == [0.0625]
    assert not any(int(tag[:4], 16) % 2 for tag in item)
    assert "7FE00010" not in item


def test_a_file_contains_header_and_voxels() -> None:
    plane = np.arange(12, dtype=np.int16).reshape(3, 4) - 5
    ds = pydicom.dcmread(BytesIO(series_of().file(2, plane)))
    np.testing.assert_array_equal(ds.pixel_array, plane)
    assert (ds.SOPInstanceUID, ds.file_meta.MediaStorageSOPInstanceUID) == (series_of().uid(2),) * 2
    assert (ds.PatientID, str(ds.PatientName), ds.StudyDate) == ("ct_001", "ct_001", "")
    assert (ds.PixelSpacing[0], ds.PixelSpacing[1]) == (0.8, 0.7)


def test_the_files_are_a_series_with_the_same_voxels_and_grid_for_the_project_s_own_reader(tmp_path: Path) -> None:
    image = sitk.DICOMOrient(small_ct(np.eye(3)), "LPS")
    series, array = series_of(Geometry.of(image)), sitk.GetArrayFromImage(image)
    for number in range(1, series.count + 1):
        (tmp_path / f"{number}.dcm").write_bytes(series.file(number, array[number - 1]))
    found = read_volume(tmp_path)
    np.testing.assert_array_equal(found.array, array)
    assert found.geometry.matches(series.geometry)


def test_a_label_map_becomes_a_seg_that_refers_to_the_instances() -> None:
    series = series_of()
    labels = sitk.GetImageFromArray(np.pad(np.full((1, 1, 1), 6, np.uint8), ((2, 2), (1, 1), (1, 2))))
    seg = write_seg(labels, series.headers(), LabelOrigin("final", 1, "Kim"))
    named = [item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence]
    assert named == [series.uid(3)]
    assert seg.StudyInstanceUID == series.about.study


def test_a_picture_has_square_pixels_in_the_soft_tissue_window() -> None:
    from PIL import Image

    grid = Geometry((40, 20, 5), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0))
    plane = np.full((20, 40), -1000, np.int16)
    plane[:, 20:] = 240
    picture = Image.open(BytesIO(slice_picture(series_of(grid), plane, "PNG")))
    assert picture.size == (40, 40)
    assert (picture.getpixel((2, 2)), picture.getpixel((38, 38))) == (0, 255)
    assert max(Image.open(BytesIO(slice_picture(series_of(grid), plane, "JPEG", 16))).size) == 16
