"""Label maps are written as DICOM segmentations and read back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom import LabelOrigin, read_seg, seg_series_uid, write_seg
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import read_volume
from series_files import through_a_file, upright, write_series

ARRAY = np.random.default_rng(2).integers(-1000, 1000, (6, 20, 24))


def labels_like(folder: Path, array: np.ndarray) -> sitk.Image:
    """Returns a label map drawn on the LPS array, on the series' own grid."""
    return read_volume(folder).with_array(array.astype(np.uint8)).restored()


def drawn(*organs: int) -> np.ndarray:
    array = np.zeros(ARRAY.shape, np.uint8)
    for n, organ in enumerate(organs):
        array[1:4, 2 + n : 5 + n, 3:12] = organ
    return array


@pytest.mark.parametrize("code", ["LPS", "RAI", "ASL", "LIP"])
@pytest.mark.parametrize("organs", [tuple(range(1, 16)), (2,), (15, 6), ()])
def test_a_written_label_map_is_read_back_voxel_by_voxel(tmp_path: Path, code: str, organs: tuple[int, ...]) -> None:
    write_series(tmp_path, sitk.DICOMOrient(upright(ARRAY), code))
    labels = labels_like(tmp_path, drawn(*organs))
    seg = through_a_file(write_seg(labels, tmp_path, LabelOrigin("final", 3, "Kim")))
    assert (read_seg(seg, tmp_path) == sitk.GetArrayFromImage(labels)).all()


def test_segments_have_the_numbers_names_codes_and_colours_of_the_organs(tmp_path: Path) -> None:
    write_series(tmp_path, upright(ARRAY))
    seg = through_a_file(write_seg(labels_like(tmp_path, drawn(2)), tmp_path, LabelOrigin("final", 1, "Kim", model="unet_3d")))
    assert [item.SegmentNumber for item in seg.SegmentSequence] == organ_table().indices
    kidney = seg.SegmentSequence[1]
    assert kidney.SegmentLabel == "Right kidney"
    kind = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodingSchemeDesignator, kind.CodeValue) == ("SCT", "64033007")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert len(kidney.RecommendedDisplayCIELabValue) == 3
    assert kidney.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert kidney.SegmentAlgorithmName == "unet_3d"
    assert str(seg.ContentCreatorName) == "Kim^"
    used = {frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber for frame in seg.PerFrameFunctionalGroupsSequence}
    assert used == {2}


def test_labels_drawn_by_a_person_alone_are_marked_as_manual(tmp_path: Path) -> None:
    write_series(tmp_path, upright(ARRAY))
    seg = write_seg(labels_like(tmp_path, drawn(6)), tmp_path, LabelOrigin("final", 1, "Kim", made="MANUAL"))
    assert {item.SegmentAlgorithmType for item in seg.SegmentSequence} == {"MANUAL"}


def test_versions_of_a_label_are_instances_of_one_series(tmp_path: Path) -> None:
    files = write_series(tmp_path, upright(ARRAY))
    source = pydicom.dcmread(files[0])
    labels = labels_like(tmp_path, drawn(6))
    first, second = (write_seg(labels, tmp_path, LabelOrigin("final", n)) for n in (1, 2))
    other = write_seg(labels, tmp_path, LabelOrigin("second_reader", 1))
    assert first.SeriesInstanceUID == second.SeriesInstanceUID == seg_series_uid(source.SeriesInstanceUID, "final")
    assert other.SeriesInstanceUID != first.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)
    assert first.StudyInstanceUID == source.StudyInstanceUID
    assert first.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID


def test_segments_of_other_programs_are_identified_by_code_or_name(tmp_path: Path) -> None:
    write_series(tmp_path, upright(ARRAY))
    labels = labels_like(tmp_path, drawn(3, 6))
    seg = through_a_file(write_seg(labels, tmp_path, LabelOrigin("final", 1)))
    for item in seg.SegmentSequence:
        del item.TrackingID
        item.SegmentLabel = f"Segment {item.SegmentNumber}"
    assert (read_seg(seg, tmp_path) == sitk.GetArrayFromImage(labels)).all()
    for item in seg.SegmentSequence:
        item.SegmentLabel = organ_table()[int(item.SegmentNumber)].name
        item.SegmentedPropertyTypeCodeSequence[0].CodeValue = "T-D0050"
    assert (read_seg(seg, tmp_path) == sitk.GetArrayFromImage(labels)).all()
    seg.SegmentSequence[2].SegmentLabel, seg.SegmentSequence[5].SegmentLabel = "Kidney (left)", "HEPAR"
    assert (read_seg(seg, tmp_path) == sitk.GetArrayFromImage(labels)).all()
    seg.SegmentSequence[5].SegmentLabel = "Tumour"
    with pytest.raises(InputError, match="Such segments: 'Tumour'"):
        read_seg(seg, tmp_path)


def test_frames_without_references_are_located_by_their_position(tmp_path: Path) -> None:
    write_series(tmp_path, upright(ARRAY))
    labels = labels_like(tmp_path, drawn(6))
    seg = through_a_file(write_seg(labels, tmp_path, LabelOrigin("final", 1)))
    for frame in seg.PerFrameFunctionalGroupsSequence:
        del frame.DerivationImageSequence
    assert (read_seg(seg, tmp_path) == sitk.GetArrayFromImage(labels)).all()
    seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 999]
    with pytest.raises(InputError, match="not on any slice of the series"):
        read_seg(seg, tmp_path)


def test_objects_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, upright(ARRAY))
    with pytest.raises(InputError, match="has shape"):
        write_seg(sitk.Image(5, 5, 5, sitk.sitkUInt8), tmp_path, LabelOrigin("final", 1))
    with pytest.raises(InputError, match=r"values \[99\]"):
        write_seg(labels_like(tmp_path, drawn(99)), tmp_path, LabelOrigin("final", 1))
    with pytest.raises(InputError, match="not a DICOM segmentation"):
        read_seg(pydicom.dcmread(files[0]), tmp_path)
    seg = write_seg(labels_like(tmp_path, drawn(6)), tmp_path, LabelOrigin("final", 1))
    write_series(tmp_path / "other", upright(ARRAY[:, :10]))
    with pytest.raises(InputError, match="rows or columns"):
        read_seg(seg, tmp_path / "other")


def test_no_name_of_a_patient_is_printed(tmp_path: Path) -> None:
    def rename(ds: pydicom.Dataset, _: int) -> None:
        ds.PatientName = "SURNAME"  # highdicom warns of names with a single component

    write_series(tmp_path / "series", upright(ARRAY), rename)
    sitk.WriteImage(labels_like(tmp_path / "series", drawn(6)), str(tmp_path / "label.nii.gz"))
    command = [sys.executable, "-m", "medsam2_atlas", "--verbose", "dicom", "seg"]
    files = [str(tmp_path / name) for name in ("label.nii.gz", "series", "out.dcm")]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert (done.returncode, (tmp_path / "out.dcm").is_file()) == (0, True), done.stderr
    assert "SURNAME" not in done.stdout + done.stderr
