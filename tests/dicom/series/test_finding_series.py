"""Finding the files of one series below a path."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RTDoseStorage,
    SegmentationStorage,
    generate_uid,
)

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom import LabelOrigin, write_seg
from medsam2_atlas.dicom.series import files as finding
from medsam2_atlas.imaging.decoding import file_states
from medsam2_atlas.imaging.decoding.sniff import is_dicom
from medsam2_atlas.imaging.volume import read_grid, read_volume
from series_files import upright, write_enhanced, write_series

ARRAY = np.random.default_rng(2).integers(-1000, 1000, (6, 9, 10))


def without_preamble(file: Path, *, meta: bool, implicit: bool) -> None:
    ds = pydicom.dcmread(file)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    ds.preamble = None
    if not meta:
        del ds.file_meta
    pydicom.dcmwrite(file, ds, implicit_vr=implicit, little_endian=True)
    if meta:  # pydicom writes a prefix if there is meta information
        file.write_bytes(file.read_bytes().removeprefix(b"DICM"))


@pytest.mark.parametrize(("meta", "implicit"), [(True, True), (True, False), (False, True), (False, False)])
def test_files_without_preamble_are_read(tmp_path: Path, meta: bool, implicit: bool) -> None:
    for file in write_series(tmp_path, upright(ARRAY)):
        without_preamble(file, meta=meta, implicit=implicit)
        assert file.read_bytes()[128:132] != b"DICM"
    assert (read_volume(tmp_path).array == ARRAY).all()


def test_other_files_in_the_folder_of_a_series_are_skipped(tmp_path: Path) -> None:
    write_series(tmp_path, upright(ARRAY))
    draw = np.random.default_rng(0)
    for n in range(200):
        (tmp_path / f"x{n}").write_bytes(b"\x08\x00" + draw.bytes(400) if n % 2 else draw.bytes(int(draw.integers(0, 400))))
        assert not is_dicom(tmp_path / f"x{n}")
    # Begins like a data set, but has no SOP class of an image.
    (tmp_path / "odd").write_bytes(b"".join(b"\x08\x00" + bytes([2 * n, 0]) + b"LO\x02\x00ab" for n in range(9)))
    assert is_dicom(tmp_path / "odd")
    volume = read_volume(tmp_path)
    assert (volume.array == ARRAY).all()
    assert volume.remarks == ()


def test_a_damaged_dicom_file_in_the_folder_of_a_series_is_reported(tmp_path: Path) -> None:
    files = write_series(tmp_path, upright(ARRAY))
    (tmp_path / "damaged.dcm").write_bytes(files[0].read_bytes()[:140] + b"\xff" * 50)
    volume = read_volume(tmp_path)
    assert (volume.array == ARRAY).all()
    assert volume.remarks == ("damaged.dcm cannot be read as DICOM and is left out.",)


def test_a_series_is_found_in_nested_folders(tmp_path: Path) -> None:
    for n, file in enumerate(write_series(tmp_path, upright(ARRAY))):
        target = tmp_path / "export" / "PAT1" / f"part{n % 2}" / f"IM{n}"
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    (tmp_path / "export" / "viewer.txt").write_text("run viewer.exe")
    assert (read_volume(tmp_path).array == ARRAY).all()
    assert read_grid(tmp_path) == read_volume(tmp_path).geometry


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    write_series(tmp_path / "other", upright(ARRAY))
    files = write_series(tmp_path / "series", upright(ARRAY))
    (tmp_path / "series" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "series" / "loop").symlink_to(tmp_path / "series")
    kept = tmp_path / "kept"  # as git-annex keeps files
    files[0].rename(kept)
    files[0].symlink_to(kept)
    assert (read_volume(tmp_path / "series").array == ARRAY).all()


def test_depth_and_number_of_files_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "/".join("abcdefghijk")
    write_series(deep, upright(ARRAY))
    with pytest.raises(InputError, match="more than 8 levels deep"):
        read_volume(tmp_path)
    monkeypatch.setattr("medsam2_atlas.imaging.decoding.tree._MAX_FILES", 4)
    with pytest.raises(InputError, match="more than 4 files"):
        file_states(deep)


def test_changes_in_nested_folders_change_the_state(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a" / "b", upright(ARRAY))
    before = file_states(tmp_path), file_states(files[0])
    os.utime(files[3], (1, 1))
    assert before[0] != file_states(tmp_path)
    assert before[1] != file_states(files[0])


def test_a_dicomdir_is_read_as_its_folder(tmp_path: Path) -> None:
    medium = FileSet()
    for file in write_series(tmp_path / "series", upright(ARRAY)):
        medium.add(file)
    medium.write(tmp_path / "medium")
    assert (tmp_path / "medium" / "DICOMDIR").is_file()
    for path in ("medium", "medium/DICOMDIR"):
        volume = read_volume(tmp_path / path)
        assert (volume.array == ARRAY).all()
        assert volume.remarks == ()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_entries_of_a_dicomdir_are_not_followed(tmp_path: Path) -> None:
    files = write_series(tmp_path / "elsewhere", upright(ARRAY))
    (tmp_path / "medium").mkdir()
    index = pydicom.dcmread(files[0])
    index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    for tag in ("SOPClassUID", "SOPInstanceUID", "ImagePositionPatient", "Rows", "PixelData"):
        del index[tag]
    record = Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["..", "elsewhere", files[0].name]
    index.DirectoryRecordSequence = [record]
    index.save_as(tmp_path / "medium" / "DICOMDIR")
    for path in ("medium", "medium/DICOMDIR"):
        with pytest.raises(InputError, match="contains no DICOM series"):
            read_volume(tmp_path / path)


def test_one_file_is_read_as_its_series_in_the_same_folder(tmp_path: Path) -> None:
    files = write_series(tmp_path, upright(ARRAY), name="a")
    write_series(tmp_path, upright(ARRAY + 7), name="b")
    write_series(tmp_path / "below", upright(ARRAY + 7))
    other = files[2].rename(tmp_path / "1.2.840.113.17")  # named by its UID
    for path in (files[4], other):
        assert (read_volume(path).array == ARRAY).all()
        assert read_grid(path).size == (10, 9, 6)
    enhanced = write_enhanced(tmp_path, upright(ARRAY + 9))
    assert (read_volume(enhanced[0]).array == ARRAY + 9).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_several_series_are_listed_so_that_one_can_be_chosen(tmp_path: Path) -> None:
    for n in range(3):

        def described(ds: Dataset, _: int, n: int = n) -> None:
            ds.SeriesNumber, ds.SeriesDescription = n + 2, ["portal venous", "", "scout\n" + "x" * 99][n]

        write_series(tmp_path / f"S{n}", upright(ARRAY[: n + 2]), described)
    with pytest.raises(InputError) as raised:
        read_volume(tmp_path)
    text = str(raised.value)
    assert "3 series: 2 'portal venous' (2 files, such as S0/000.dcm); 3 'without description' (3 files" in text
    assert "Give a file of the series" in text
    assert (read_volume(tmp_path / "S0" / "000.dcm").array == ARRAY[:2]).all()


def test_the_list_of_series_is_limited(tmp_path: Path) -> None:
    file = write_series(tmp_path, upright(ARRAY[:1]))[0]
    ds = pydicom.dcmread(file)
    for n in range(14):
        ds.SeriesInstanceUID, ds.SeriesDescription = generate_uid(), f"run {n}"
        ds.save_as(tmp_path / f"x{n}.dcm")
    with pytest.raises(InputError, match="of more than 10 series") as raised:
        read_volume(tmp_path)
    assert str(raised.value).count("1 file") == finding._MAX_SERIES


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_derived_objects_in_the_folder_of_a_series_are_skipped(tmp_path: Path) -> None:
    files = write_series(tmp_path, upright(ARRAY))
    labels = read_volume(tmp_path).with_array((ARRAY > 0).astype(np.uint8)).restored()
    seg = write_seg(labels, tmp_path, LabelOrigin("final", 1))
    assert seg.SOPClassUID == SegmentationStorage
    seg.save_as(tmp_path / "seg.dcm")
    dose = pydicom.dcmread(files[0])
    dose.SOPClassUID, dose.Modality, dose.SeriesInstanceUID = RTDoseStorage, "RTDOSE", generate_uid()
    dose.save_as(tmp_path / "dose.dcm")
    assert (read_volume(tmp_path).array == ARRAY).all()
    for file in files:
        file.unlink()
    with pytest.raises(InputError, match=r"only DICOM files without slices \(1 RTDOSE, 1 SEG\)"):
        read_volume(tmp_path)
    with pytest.raises(InputError, match="not a slice of a CT"):
        read_volume(tmp_path / "seg.dcm")


@pytest.mark.parametrize("name", ["pipe.dcm", "pipe"])
def test_a_pipe_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is not a file"):
        read_volume(tmp_path / name)
    write_series(tmp_path, upright(ARRAY))
    assert (read_volume(tmp_path).array == ARRAY).all()
