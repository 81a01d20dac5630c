"""Series with missing or invalid attributes still get segmentations and structure sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medsam2_atlas.dicom import LabelOrigin, read_rtstruct, read_seg, write_rtstruct, write_seg
from medsam2_atlas.dicom.headers import as_json, from_json, source_headers
from medsam2_atlas.imaging.volume import read_volume
from series_files import through_a_file, upright, write_series

ARRAY = np.random.default_rng(2).integers(-1000, 1000, (6, 20, 24))


def without(*tags: str) -> Callable[[Dataset, int], None]:
    def change(ds: Dataset, n: int) -> None:
        for tag in tags:
            delattr(ds, tag)

    return change


def raw(tag: str, vr: str, value: bytes) -> Callable[[Dataset, int], None]:
    def change(ds: Dataset, n: int) -> None:
        place = Tag(tag)
        ds[place] = RawDataElement(place, vr, len(value), value, 0, False, True)

    return change


def setting(tag: str, value: object) -> Callable[[Dataset, int], None]:
    return lambda ds, n: setattr(ds, tag, value)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "change",
    [
        without("StudyID"),
        without("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
        without("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
        without("FrameOfReferenceUID", "PositionReferenceIndicator"),
        without("SliceThickness"),
        without("StudyInstanceUID"),
        without("Modality", "SOPClassUID", "Manufacturer"),
        raw("StudyDate", "DA", b"ANON"),
        raw("StudyTime", "TM", b"25:61 "),
        raw("PatientBirthDate", "DA", b"0000"),
        raw("PatientSex", "CS", b"female"),
        raw("SliceThickness", "DS", b"thin"),
        raw("PatientName", "PN", "Müller^Jörg".encode("latin-1")),
        raw("PatientName", "PN", b"A^B^C^D^E^F=G=H=I\\x" * 9),
        raw("PatientID", "LO", b"a\\b\x01" + b"c" * 99 + b" "),
        raw("StudyID", "SH", b"a study id that is far too long for it"),
        raw("SpecificCharacterSet", "CS", b"ISO_IR 999"),
        raw("FrameOfReferenceUID", "UI", b"../.."),
        setting("LossyImageCompression", "01"),
    ],
)
def test_labels_of_series_with_invalid_headers_become_objects(tmp_path: Path, change: Callable[[Dataset, int], None]) -> None:
    write_series(tmp_path, upright(ARRAY), change)
    array = np.zeros(ARRAY.shape, np.uint8)
    array[1:4, 2:9, 3:12] = 6
    labels = read_volume(tmp_path).with_array(array).restored()
    origin = LabelOrigin("final", 1, "Kim")
    for write, read in ((write_seg, read_seg), (write_rtstruct, read_rtstruct)):
        ds = through_a_file(write(labels, tmp_path, origin))
        assert (read(ds, tmp_path) == sitk.GetArrayFromImage(labels)).all()
        for tag in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "AccessionNumber"):
            assert tag in ds
        assert ds.StudyDate in ("", "20260101")
        assert ds.SpecificCharacterSet == "ISO_IR 192"


def test_missing_values_are_derived_from_the_series(tmp_path: Path) -> None:
    write_series(tmp_path, upright(ARRAY), without("FrameOfReferenceUID", "SliceThickness", "StudyID"))
    first, second = source_headers(tmp_path), source_headers(tmp_path)
    assert first[0].FrameOfReferenceUID == second[0].FrameOfReferenceUID
    assert float(first[0].SliceThickness) == 3.0
    assert first[0].StudyID == ""


def test_headers_are_unchanged_after_json(tmp_path: Path) -> None:
    write_series(tmp_path, upright(ARRAY), raw("PatientName", "PN", "Müller^Jörg".encode("latin-1")))
    headers = source_headers(tmp_path)
    assert from_json(json.loads(json.dumps(as_json(headers)))) == headers
    assert len({str(ds.SOPInstanceUID) for ds in headers}) == len(ARRAY)


def test_names_keep_their_letters(tmp_path: Path) -> None:
    def change(ds: Dataset, n: int) -> None:
        ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 192", "Đặng^Müller"

    write_series(tmp_path, upright(ARRAY), change)
    labels = read_volume(tmp_path).with_array(np.zeros(ARRAY.shape, np.uint8)).restored()
    seg = through_a_file(write_seg(labels, tmp_path, LabelOrigin("final", 1, "Łukasz Ørsted")))
    assert (str(seg.PatientName), str(seg.ContentCreatorName)) == ("Đặng^Müller", "Łukasz Ørsted^")


@pytest.mark.parametrize("author", ["a\\b=c=d=e", "x" * 300, "^^^^^^^", "\n", "李\ud800"])
@pytest.mark.parametrize("tag", ["final", "t" * 64, "été", "2nd", "-\n\\"])
def test_any_author_and_tag_can_be_written(tmp_path: Path, author: str, tag: str) -> None:
    write_series(tmp_path, upright(ARRAY))
    labels = read_volume(tmp_path).with_array(np.zeros(ARRAY.shape, np.uint8)).restored()
    for write in (write_seg, write_rtstruct):
        ds = through_a_file(write(labels, tmp_path, LabelOrigin(tag, 1, author, model="m" * 99)))
        assert len(ds.SeriesDescription) <= 64


def test_the_same_label_map_is_the_same_instance(tmp_path: Path) -> None:
    write_series(tmp_path, upright(ARRAY))
    image, array = read_volume(tmp_path), np.zeros(ARRAY.shape, np.uint8)
    uids = [write_seg(image.with_array(array).restored(), tmp_path, LabelOrigin("final", n)).SOPInstanceUID for n in (1, 1, 2)]
    array[2, 3, 4] = 1
    uids.append(write_seg(image.with_array(array).restored(), tmp_path, LabelOrigin("final", 1)).SOPInstanceUID)
    assert uids[0] == uids[1]
    assert len(set(uids)) == 3
