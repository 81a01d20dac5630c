"""DICOM series that are a volume, and series that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom.series import find_series
from medsam2_atlas.imaging.volume import read_volume
from series_files import in_one_slice, upright, write_series

ARRAY = np.random.default_rng(2).integers(-1000, 1000, (5, 6, 7))


def test_a_series_is_read_in_hu_with_its_geometry(tmp_path: Path) -> None:
    write_series(tmp_path, upright(ARRAY))
    volume = read_volume(tmp_path)
    assert (volume.array == ARRAY).all()
    assert volume.geometry.spacing == (1.5, 2.0, 3.0)
    assert volume.geometry.origin == (-10.0, -20.0, 30.0)


@pytest.mark.parametrize("code", ["LPS", "RAI", "ASL", "SPR", "LIP"])
def test_slices_are_ordered_by_their_positions_in_any_plane(tmp_path: Path, code: str) -> None:
    image = sitk.DICOMOrient(upright(ARRAY), code)

    def shuffled(ds: Dataset, n: int) -> None:
        ds.InstanceNumber = [3, 1, 5, 7, 2, 6, 4][n]

    write_series(tmp_path, image, shuffled)
    (tmp_path / "notes.txt").write_text("not a slice")
    volume = read_volume(tmp_path)
    assert (volume.array == ARRAY).all()
    normal = np.cross(volume.file_geometry.direction[0::3], volume.file_geometry.direction[1::3])
    places = [np.dot(s.position, normal) for s in find_series(tmp_path).slices]
    assert places == sorted(places)


def test_a_missing_slice_is_reported_with_its_position(tmp_path: Path) -> None:
    files = write_series(tmp_path, upright(ARRAY))
    files[2].unlink()
    with pytest.raises(InputError, match=r"missing or duplicated, first after the slice at \(-10.0, -20.0, 33.0\)"):
        read_volume(tmp_path)


def test_a_duplicate_slice_is_reported(tmp_path: Path) -> None:
    files = write_series(tmp_path, upright(ARRAY))
    (tmp_path / "again.dcm").write_bytes(files[1].read_bytes())
    with pytest.raises(InputError, match=r"more than one slice at \(-10.0, -20.0, 33.0\) mm: 001.dcm and again.dcm"):
        read_volume(tmp_path)


def test_images_of_the_series_without_a_position_are_reported(tmp_path: Path) -> None:
    def placeless(ds: Dataset, n: int) -> None:
        if n == 4:
            del ds.ImagePositionPatient

    write_series(tmp_path, upright(ARRAY), placeless)
    volume = read_volume(tmp_path)
    assert (volume.array == ARRAY[:4]).all()
    assert volume.remarks == ("1 of its images have no ImagePositionPatient and are left out.",)


def test_several_phases_are_named(tmp_path: Path) -> None:
    def timed(ds: Dataset, n: int) -> None:
        ds.TemporalPositionIdentifier, ds.ImagePositionPatient = 1 + n % 3, [0, 0, n // 3]

    write_series(tmp_path, upright(np.concatenate([ARRAY, ARRAY[:4]])), timed)
    with pytest.raises(InputError, match=r"3 temporal positions \(1, 2, 3\), each of them a volume"):
        read_volume(tmp_path)


def test_one_temporal_position_per_slice_is_one_volume(tmp_path: Path) -> None:
    def timed(ds: Dataset, n: int) -> None:
        ds.TemporalPositionIdentifier = n + 1

    write_series(tmp_path, upright(ARRAY), timed)
    assert (read_volume(tmp_path).array == ARRAY).all()


def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path: Path) -> None:
    def tilted(ds: Dataset, n: int) -> None:
        x, y, z = (float(v) for v in ds.ImagePositionPatient)
        ds.ImagePositionPatient = [x, y + 0.8038 * n, z]

    write_series(tmp_path, upright(ARRAY), tilted)
    with pytest.raises(InputError, match=r"tilted gantry \(15.0°\)"):
        read_volume(tmp_path)


def test_slices_of_several_series_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, upright(ARRAY), name="a")
    write_series(tmp_path, upright(ARRAY), name="b")
    with pytest.raises(InputError, match="of 2 series"):
        read_volume(tmp_path)


def test_a_scout_among_the_slices_is_refused(tmp_path: Path) -> None:
    def scout(ds: Dataset, n: int) -> None:
        if n == 0:
            ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    write_series(tmp_path, upright(ARRAY), scout)
    with pytest.raises(InputError, match="different orientation"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    ("tag", "value", "problem"),
    [
        ("FrameOfReferenceUID", "1.2.3.4", "frames of reference"),
        ("PixelSpacing", [2.0, 2.0], "pixel spacings"),
        ("ImageOrientationPatient", None, "without ImageOrientationPatient"),
    ],
)
def test_slices_that_do_not_fit_together_are_refused(tmp_path: Path, tag: str, value: object, problem: str) -> None:
    write_series(tmp_path, upright(ARRAY), in_one_slice(tag, value))
    with pytest.raises(InputError, match=problem):
        read_volume(tmp_path)


def test_one_slice_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no DICOM series"):
        read_volume(tmp_path)
    write_series(tmp_path, upright(ARRAY[:1]))
    with pytest.raises(InputError, match="at least two"):
        read_volume(tmp_path)


def test_duplicate_slices_in_nested_folders_are_named_by_their_paths(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a", upright(ARRAY))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / files[1].name).write_bytes(files[1].read_bytes())
    with pytest.raises(InputError, match=r"a/001\.dcm and b/001\.dcm"):
        read_volume(tmp_path)
