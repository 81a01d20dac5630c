"""Enhanced CT: frames are read as slices, in any order and from several files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom.dataset import Dataset
from pydicom.uid import LegacyConvertedEnhancedCTImageStorage

from imaging.decoding.mutations import mutated
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom import LabelOrigin, read_rtstruct, read_seg, write_rtstruct, write_seg
from medsam2_atlas.dicom.series import find_series
from medsam2_atlas.dicom.series.pixels import hounsfield
from medsam2_atlas.imaging.volume import read_volume
from series_files import Change, upright, write_enhanced, write_series

ARRAY = np.random.default_rng(2).integers(-1000, 1000, (6, 20, 24))
ORDER = [3, 0, 5, 1, 4, 2]


def per_frame(ds: Dataset, n: int) -> None:
    """Moves the shared groups into each frame's groups; each frame gets its own rescale rule."""
    shared = ds.SharedFunctionalGroupsSequence[0]
    stored = np.frombuffer(ds.PixelData, "<i2").reshape(ds.NumberOfFrames, -1).copy()
    for k, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        groups.PlaneOrientationSequence, groups.PixelMeasuresSequence = (
            shared.PlaneOrientationSequence,
            shared.PixelMeasuresSequence,
        )
        rule = Dataset()
        rule.RescaleIntercept, rule.RescaleSlope, rule.RescaleType = -1024 - k, 1, "HU"
        groups.PixelValueTransformationSequence = [rule]
        stored[k] += k
    ds.PixelData = stored.tobytes()
    del ds.SharedFunctionalGroupsSequence


def nothing(ds: Dataset, n: int) -> None:
    pass


@pytest.mark.parametrize("change", [nothing, per_frame])
@pytest.mark.parametrize("code", ["LPS", "ASL", "LIP"])
def test_frames_are_read_by_their_groups_as_highdicom_reads_them(tmp_path: Path, change: Change, code: str) -> None:
    image = sitk.DICOMOrient(upright(ARRAY), code)
    order = list(np.random.default_rng(3).permutation(image.GetSize()[2]).tolist())
    (file,) = write_enhanced(tmp_path, image, change, order=order)
    volume = read_volume(file)
    assert (volume.array == ARRAY).all()
    assert volume.remarks == ()
    by_highdicom = hd.imread(file).get_volume()
    index = np.array([0, 0, 0]), np.array(by_highdicom.shape) - 1
    for corner in index:
        place = by_highdicom.map_indices_to_reference(corner[None])[0]
        x, y, z = np.rint(volume.geometry.to_index(place)).astype(int)
        assert by_highdicom.array[tuple(corner)] == volume.array[z, y, x]


@pytest.mark.parametrize("files", [2, 3, 6])
def test_frames_in_several_files_are_one_volume(tmp_path: Path, files: int) -> None:
    paths = write_enhanced(tmp_path, upright(ARRAY), order=ORDER, files=files)
    assert (read_volume(tmp_path).array == ARRAY).all()
    paths[-1].unlink()
    with pytest.raises(InputError, match="lacks 1 of the files"):
        read_volume(tmp_path)


def test_a_legacy_converted_series_is_read(tmp_path: Path) -> None:
    singles = [pydicom.dcmread(file) for file in write_series(tmp_path / "single", upright(ARRAY))]
    uids = {"series_instance_uid": hd.UID(), "sop_instance_uid": hd.UID()}
    converted = LegacyConvertedEnhancedCTImage(singles, series_number=2, instance_number=1, **uids)
    assert converted.SOPClassUID == LegacyConvertedEnhancedCTImageStorage
    (tmp_path / "converted").mkdir()
    converted.save_as(tmp_path / "converted" / "ct")
    assert (read_volume(tmp_path / "converted").array == ARRAY).all()


def stacked(ds: Dataset, n: int) -> None:
    for k, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        groups.FrameContentSequence[0].StackID = "AB"[k % 2]


def timed(ds: Dataset, n: int) -> None:
    for k, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        groups.FrameContentSequence[0].TemporalPositionIndex = 1 + k % 3


def beating(ds: Dataset, n: int) -> None:
    for k, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        phase = Dataset()
        phase.NominalPercentageOfCardiacPhase = [40, 75][k % 2]
        groups.CardiacSynchronizationSequence = [phase]


def doubled(ds: Dataset, n: int) -> None:
    groups = ds.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[4].PlanePositionSequence


def missing(ds: Dataset, n: int) -> None:
    groups = ds.PerFrameFunctionalGroupsSequence
    groups[2].PlanePositionSequence[0].ImagePositionPatient = [-10, -20, 60]


def turned(ds: Dataset, n: int) -> None:
    plane = Dataset()
    plane.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    ds.PerFrameFunctionalGroupsSequence[3].PlaneOrientationSequence = [plane]


def without_a_position(ds: Dataset, n: int) -> None:
    ds.ImagePositionPatient = [0, 0, 0]
    del ds.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence


def without_groups(ds: Dataset, n: int) -> None:
    ds.ImagePositionPatient = [0, 0, 0]
    del ds.PerFrameFunctionalGroupsSequence


def with_too_few_groups(ds: Dataset, n: int) -> None:
    ds.NumberOfFrames = 7


def cut_short(ds: Dataset, n: int) -> None:
    ds.PixelData = ds.PixelData[:-500]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (stacked, r"2 stacks \(A, B\)"),
        (timed, r"3 temporal positions \(1, 2, 3\)"),
        (beating, r"2 cardiac phases \(40.*, 75"),
        (doubled, r"more than one slice at .*: frame [25] of enhanced0.dcm and frame [25] of"),
        (missing, "missing or duplicated"),
        (turned, "different orientation"),
        (without_a_position, "without ImagePositionPatient"),
        (without_groups, "6 frames, and positions of 0 of them"),
        (with_too_few_groups, "7 frames, and positions of 6 of them"),
        (cut_short, "cannot be decoded"),
    ],
)
def test_frames_that_are_not_a_volume_are_refused_with_the_reason(tmp_path: Path, change: Change, problem: str) -> None:
    write_enhanced(tmp_path, upright(ARRAY), change, order=ORDER)
    with pytest.raises(InputError, match=problem):
        read_volume(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_are_read_or_raise_an_input_error(tmp_path: Path, seed: int) -> None:
    (file,) = write_enhanced(tmp_path, upright(ARRAY[:, :4, :5]), order=ORDER)
    original, draw = file.read_bytes(), np.random.default_rng(seed)
    for _ in range(30):
        content = bytearray(original)
        for place in draw.integers(300, len(content), int(draw.integers(1, 8))):
            content[place] = draw.integers(0, 256)
        file.write_bytes(mutated(bytes(content), ".dcm", draw) if draw.random() < 0.3 else content)
        with suppress(InputError):
            values = hounsfield(find_series(tmp_path))
            assert values.ndim == 3


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("files", [1, 2])
def test_derived_objects_refer_to_frames(tmp_path: Path, files: int) -> None:
    paths = write_enhanced(tmp_path / "ct", upright(ARRAY), order=ORDER, files=files)
    array = np.zeros(ARRAY.shape, np.uint8)
    array[1:5, 2:12, 3:14], array[3, 15, 20] = 6, 2
    labels = read_volume(tmp_path / "ct").with_array(array).restored()
    origin = LabelOrigin("final", 1, "Kim")
    write_seg(labels, tmp_path / "ct", origin).save_as(tmp_path / "seg.dcm")
    write_rtstruct(labels, tmp_path / "ct", origin).save_as(tmp_path / "rtstruct.dcm")
    seg, rtstruct = hd.seg.segread(tmp_path / "seg.dcm"), pydicom.dcmread(tmp_path / "rtstruct.dcm")
    assert (read_seg(pydicom.dcmread(tmp_path / "seg.dcm"), tmp_path / "ct") == array).all()
    assert (read_rtstruct(rtstruct, tmp_path / "ct") == array).all()

    sources = [pydicom.dcmread(path) for path in paths]
    uids = [ds.SOPInstanceUID for ds in sources]
    places = {
        (ds.SOPInstanceUID, k + 1): list(groups.PlanePositionSequence[0].ImagePositionPatient)
        for ds in sources
        for k, groups in enumerate(ds.PerFrameFunctionalGroupsSequence)
    }
    for frame in seg.PerFrameFunctionalGroupsSequence:
        item = frame.DerivationImageSequence[0].SourceImageSequence[0]
        place = places[item.ReferencedSOPInstanceUID, item.ReferencedFrameNumber]
        assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == place
    (named,) = seg.ReferencedSeriesSequence
    assert {item.ReferencedSOPInstanceUID for item in named.ReferencedInstanceSequence} == set(uids)
    for n, ds in enumerate(sources):
        shown = [k + 1 for k, z in enumerate(ORDER[n * len(ORDER) // files :][: ds.NumberOfFrames]) if array[z].any()]
        found = seg.get_pixels_by_source_frame(ds.SOPInstanceUID, shown, combine_segments=True)
        assert (found == array[[ORDER[n * len(ORDER) // files + k - 1] for k in shown]]).all()
    for region in rtstruct.ROIContourSequence:
        for contour in region.get("ContourSequence", ()):
            item = contour.ContourImageSequence[0]
            assert contour.ContourData[2] == places[item.ReferencedSOPInstanceUID, item.ReferencedFrameNumber][2]
            assert item.ReferencedSOPClassUID == ds.SOPClassUID
    study = rtstruct.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    images = study.RTReferencedSeriesSequence[0].ContourImageSequence
    assert sorted(item.ReferencedSOPInstanceUID for item in images) == sorted(uids)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_segmentation_of_highdicom_on_an_enhanced_ct_is_read(tmp_path: Path) -> None:
    (file,) = write_enhanced(tmp_path, upright(ARRAY), order=ORDER)
    array = np.zeros(ARRAY.shape, np.uint8)
    array[1:5, 2:12, 3:14] = 6
    ours = write_seg(read_volume(tmp_path).with_array(array).restored(), tmp_path, LabelOrigin("final", 1, made="MANUAL"))
    seg = hd.seg.Segmentation(
        source_images=[pydicom.dcmread(file)],
        pixel_array=array[ORDER] == 6,
        segmentation_type="BINARY",
        segment_descriptions=[hd.seg.SegmentDescription(1, "Liver", *_codes(ours), "MANUAL")],
        series_instance_uid=hd.UID(),
        series_number=3,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="other",
        manufacturer_model_name="other",
        software_versions="1",
        device_serial_number="1",
    )
    assert (read_seg(seg, tmp_path) == array).all()


def _codes(seg: Dataset) -> tuple[hd.sr.CodedConcept, hd.sr.CodedConcept]:
    item = seg.SegmentSequence[5]
    category, kind = item.SegmentedPropertyCategoryCodeSequence[0], item.SegmentedPropertyTypeCodeSequence[0]
    return hd.sr.CodedConcept.from_dataset(category), hd.sr.CodedConcept.from_dataset(kind)
