"""Label maps are written as RT structure sets and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.draw import polygon2mask

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom import LabelOrigin, read_rtstruct, write_rtstruct
from medsam2_atlas.dicom.rtstruct import outlines_of
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import read_volume
from series_files import through_a_file, upright, write_series

ARRAY = np.random.default_rng(2).integers(-1000, 1000, (6, 20, 24))


def drawn() -> np.ndarray:
    """Returns a liver with a hole and an island, a spleen at the border, and a right kidney of one voxel."""
    array = np.zeros(ARRAY.shape, np.uint8)
    array[1:4, 2:12, 3:14] = 6
    array[2, 5:8, 6:9] = 0
    array[2, 6, 7] = 6
    array[:, 14:, :5] = 1
    array[5, 0, 23] = 2
    return array


@given(arrays(bool, (9, 11), elements=st.booleans()))
@settings(max_examples=200, deadline=None)
def test_outlines_enclose_exactly_the_centres_of_a_mask_s_pixels(mask: np.ndarray) -> None:
    back = np.zeros(mask.shape, bool)
    for outline in outlines_of(mask):
        back ^= polygon2mask(mask.shape, outline)
    assert (back == mask).all()


@pytest.mark.parametrize("code", ["LPS", "RAI", "ASL", "LIP"])
def test_a_written_label_map_is_read_back_voxel_by_voxel(tmp_path: Path, code: str) -> None:
    write_series(tmp_path, sitk.DICOMOrient(upright(ARRAY), code))
    labels = read_volume(tmp_path).with_array(drawn()).restored()
    ds = through_a_file(write_rtstruct(labels, tmp_path, LabelOrigin("final", 3, "Kim")))
    assert (read_rtstruct(ds, tmp_path) == sitk.GetArrayFromImage(labels)).all()


def test_regions_have_the_numbers_names_codes_and_colours_of_the_organs(tmp_path: Path) -> None:
    files = write_series(tmp_path, upright(ARRAY))
    labels = read_volume(tmp_path).with_array(drawn()).restored()
    ds = through_a_file(write_rtstruct(labels, tmp_path, LabelOrigin("final", 3, "Kim", model="unet_3d")))
    source = pydicom.dcmread(files[0])
    assert (ds.StudyInstanceUID, ds.FrameOfReferenceUID) == (source.StudyInstanceUID, source.FrameOfReferenceUID)
    assert [item.ROINumber for item in ds.StructureSetROISequence] == organ_table().indices
    assert [item.ROIName for item in ds.StructureSetROISequence] == [organ.display for organ in organ_table().organs]
    assert {item.ROIGenerationAlgorithm for item in ds.StructureSetROISequence} == {"SEMIAUTOMATIC"}
    liver, spleen, bladder = (ds.ROIContourSequence[k - 1] for k in (6, 1, 14))
    assert list(liver.ROIDisplayColor) == [221, 130, 101]
    assert {c.ContourGeometricType for c in liver.ContourSequence} == {"CLOSEDPLANAR_XOR"}
    assert {c.ContourGeometricType for c in spleen.ContourSequence} == {"CLOSED_PLANAR"}
    assert "ContourSequence" not in bladder
    assert ds.RTROIObservationsSequence[5].RTROIIdentificationCodeSequence[0].CodeValue == "10200004"
    referenced = {c.ContourImageSequence[0].ReferencedSOPInstanceUID for c in spleen.ContourSequence}
    assert referenced == {pydicom.dcmread(file).SOPInstanceUID for file in files}
    assert (str(ds.OperatorsName), ds.InstanceNumber) == ("Kim^", 3)


def test_an_empty_label_map_has_regions_without_outlines(tmp_path: Path) -> None:
    write_series(tmp_path, upright(ARRAY))
    labels = read_volume(tmp_path).with_array(np.zeros(ARRAY.shape, np.uint8)).restored()
    ds = through_a_file(write_rtstruct(labels, tmp_path, LabelOrigin("final", 1, made="MANUAL")))
    assert not read_rtstruct(ds, tmp_path).any()
    assert {item.ROIGenerationAlgorithm for item in ds.StructureSetROISequence} == {"MANUAL"}


def test_objects_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, upright(ARRAY))
    with pytest.raises(InputError, match="has shape"):
        write_rtstruct(sitk.Image(5, 5, 5, sitk.sitkUInt8), tmp_path, LabelOrigin("final", 1))
    with pytest.raises(InputError, match="not an RT structure set"):
        read_rtstruct(pydicom.dcmread(files[0]), tmp_path)
    labels = read_volume(tmp_path).with_array(drawn()).restored()
    ds = write_rtstruct(labels, tmp_path, LabelOrigin("final", 1))
    contour = ds.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [v if n % 3 < 2 else 999 for n, v in enumerate(contour.ContourData)]
    with pytest.raises(InputError, match="not on any slice"):
        read_rtstruct(ds, tmp_path)
