"""Slices are checked against the regular grid that fits all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom import LabelOrigin, read_rtstruct, read_seg, write_rtstruct, write_seg
from medsam2_atlas.dicom.series import find_series
from medsam2_atlas.imaging.volume import read_volume
from series_files import Change, upright, write_series

ARRAY = np.random.default_rng(2).integers(-1000, 1000, (40, 6, 7))


def at(place: Callable[[int], float]) -> Change:
    """Returns a change that puts slice n at the height `place(n)` in mm."""

    def change(ds: Dataset, n: int) -> None:
        ds.ImagePositionPatient = [-10, -20, repr(round(float(place(n)), 9))]

    return change


def jittered(n: int) -> float:
    return 3 * n + float(np.random.default_rng(n).uniform(-0.05, 0.05))


@pytest.mark.parametrize(
    ("place", "step", "off"),
    [
        (lambda n: round(0.6 * n + 0.03, 1), 0.6, 0.03),
        (lambda n: round(0.625 * n, 1), 0.625, 0.06),
        (lambda n: round(0.3125 * n, 1), 0.3125, 0.06),
        (lambda n: round(1.25 * n), 1.25, 0.6),
        (lambda n: round(2.5 * n), 2.5, 0.6),
        (lambda n: -round(1.5 * n + 0.2), 1.5, 0.6),
        (lambda n: round(1.3333 * n), 1.3333, 0.6),
        (jittered, 3.0, 0.06),
        (lambda n: round(1.25 * n, 2), 1.25, 0.01),
    ],
)
def test_rounded_and_jittered_positions_are_read_as_even_steps(
    tmp_path: Path, place: Callable[[int], float], step: float, off: float
) -> None:
    write_series(tmp_path, upright(ARRAY), at(place))
    volume = read_volume(tmp_path)
    assert volume.geometry.spacing[2] == pytest.approx(step, rel=5e-3)
    heights = sorted(place(n) for n in range(len(ARRAY)))
    assert np.abs(volume.geometry.to_world(np.array([(0, 0, n) for n in range(40)]))[:, 2] - heights).max() <= off
    assert (volume.array == (ARRAY if place(1) > place(0) else ARRAY[::-1])).all()


def test_corrected_positions_are_reported(tmp_path: Path) -> None:
    write_series(tmp_path / "rounded", upright(ARRAY), at(lambda n: round(1.25 * n, 1)))
    assert "even steps of 1.25 mm" in " ".join(read_volume(tmp_path / "rounded").remarks)
    write_series(tmp_path / "exact", upright(ARRAY), at(lambda n: 1.25 * n))
    assert read_volume(tmp_path / "exact").remarks == ()


@pytest.mark.parametrize(
    "place",
    [
        lambda n: round(0.6 * (n + (n > 20)), 1),
        lambda n: round(0.6 * (n + (n > 0)), 1),
        lambda n: 3 * (n + (n > 38)),
        lambda n: n + (n > 20),  # whole mm: this alone could be even steps of 1.025 mm
        lambda n: round(1.25 * (n + (n > 12))),
        lambda n: 3 * n - 1.5 * (n > 30),
        lambda n: 3 * n + 0.7 * (n == 17),
        lambda n: 3 * n + 0.2 * max(0, n - 20),
    ],
)
def test_missing_duplicate_and_uneven_slices_are_refused_at_any_precision(
    tmp_path: Path, place: Callable[[int], float]
) -> None:
    def numbered(ds: Dataset, n: int) -> None:
        at(place)(ds, n)
        step = place(1) - place(0)
        ds.InstanceNumber = n + 1 + int(place(n) - step * n >= 0.9)

    write_series(tmp_path, upright(ARRAY), numbered)
    with pytest.raises(InputError, match="mm apart: some are missing or duplicated"):
        read_volume(tmp_path)


def test_slices_missing_at_even_distances_are_found_by_the_slice_numbers(tmp_path: Path) -> None:
    files = write_series(tmp_path, upright(ARRAY), at(lambda n: 3 * n))
    for file in files[2::3]:
        file.unlink()
    with pytest.raises(InputError, match=r"3\.00 to 6\.00 mm apart: some are missing"):
        read_volume(tmp_path)


@pytest.mark.parametrize("count", [3, 4, 5, 12])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_slice_is_found_among_few_slices(tmp_path: Path, count: int, missing: int) -> None:
    files = write_series(tmp_path, upright(ARRAY[: count + 1]), at(lambda n: round(0.6 * n, 1)))
    if missing < count:
        files[missing].unlink()
        with pytest.raises(InputError, match="missing or duplicated"):
            read_volume(tmp_path)


def test_equal_numbers_in_different_notations_are_equal(tmp_path: Path) -> None:
    def written(ds: Dataset, n: int) -> None:
        ds.PixelSpacing = [["2", "1.5"], ["2.000000", "1.50"], ["2.00001", "1.49999"]][n % 3]
        ds.ImageOrientationPatient = [["1", "0", "0", "0", "1", "0"], ["1.0", "-0.0", "0", "0", "1.000", "0.0005"]][n % 2]

    write_series(tmp_path, upright(ARRAY), written)
    assert read_volume(tmp_path).geometry.spacing == (1.5, 2.0, 3.0)


def turned(degrees: float, digits: int, tilt: float = 0.0) -> tuple[sitk.Image, Change]:
    """Returns an oblique image, and a change that rounds its orientation and tilts its columns by `tilt` degrees."""
    image = upright(ARRAY)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    more = np.radians(degrees + tilt)

    def change(ds: Dataset, n: int) -> None:
        ds.ImageOrientationPatient = [round(float(v), digits) for v in (c, s, 0, -np.sin(more), np.cos(more), 0)]

    return image, change


@pytest.mark.parametrize(("degrees", "digits"), [(5, 2), (17, 2), (33, 3), (45, 2), (12, 6)])
def test_rounded_orientations_are_made_perpendicular(tmp_path: Path, degrees: float, digits: int) -> None:
    image, change = turned(degrees, digits)
    write_series(tmp_path, image, change)
    grid = read_volume(tmp_path).file_geometry
    axes = np.array(grid.direction).reshape(3, 3)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    corner = np.array([6, 5, 39])
    assert np.abs(grid.to_world(corner) - image.TransformContinuousIndexToPhysicalPoint([float(v) for v in corner])).max() < 0.1


def test_skewed_axes_are_corrected_up_to_half_a_degree_and_refused_beyond(tmp_path: Path) -> None:
    image, change = turned(10, 6, tilt=0.3)
    write_series(tmp_path / "slightly", image, change)
    assert "deviated by 0.3° from right angles" in " ".join(read_volume(tmp_path / "slightly").remarks)
    image, change = turned(10, 6, tilt=2)
    write_series(tmp_path / "skewed", image, change)
    with pytest.raises(InputError, match=r"not at right angles .*: they deviate by 2°"):
        read_volume(tmp_path / "skewed")


@pytest.mark.parametrize("orientation", [[0, 0, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0], [100, 0, 0, 0, 100, 0]])
def test_invalid_orientations_are_refused(tmp_path: Path, orientation: list[float]) -> None:
    def change(ds: Dataset, n: int) -> None:
        ds.ImageOrientationPatient = orientation

    write_series(tmp_path, upright(ARRAY[:3]), change)
    with pytest.raises(InputError, match="ImageOrientationPatient"):
        read_volume(tmp_path)


@pytest.mark.parametrize(("degrees", "step"), [(15, 3.0), (2, 3.0), (1, 1.25), (6, 0.6)])
def test_a_tilted_gantry_is_found_in_rounded_positions(tmp_path: Path, degrees: float, step: float) -> None:
    def tilted(ds: Dataset, n: int) -> None:
        ds.ImagePositionPatient = [-10, round(-20 + np.tan(np.radians(degrees)) * step * n, 1), round(step * n, 1)]

    write_series(tmp_path, upright(ARRAY), tilted)
    with pytest.raises(InputError, match="tilted gantry") as raised:
        read_volume(tmp_path)
    angle = re.search(r"\((\d+\.\d)°\)", str(raised.value))
    assert angle is not None
    assert float(angle[1]) == pytest.approx(degrees, abs=0.15)


def test_a_slice_off_the_line_is_refused(tmp_path: Path) -> None:
    def moved(ds: Dataset, n: int) -> None:
        ds.ImagePositionPatient = [-10 + 12 * (n == 9), -20, 3 * n]

    write_series(tmp_path, upright(ARRAY), moved)
    with pytest.raises(InputError, match=r"are shifted sideways: the one at \(2\.0, -20\.0, 27\.0\)"):
        read_volume(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_derived_objects_keep_the_slices_own_positions(tmp_path: Path) -> None:
    files = write_series(tmp_path, upright(ARRAY), at(lambda n: round(1.25 * n)))
    array = np.zeros(ARRAY.shape, np.uint8)
    array[3:30, 1:4, 2:5] = 6
    labels = read_volume(tmp_path).with_array(array).restored()
    origin = LabelOrigin("final", 1)
    seg, rtstruct = write_seg(labels, tmp_path, origin), write_rtstruct(labels, tmp_path, origin)
    assert (read_seg(seg, tmp_path) == array).all()
    assert (read_rtstruct(rtstruct, tmp_path) == array).all()
    own = {pydicom.dcmread(file).SOPInstanceUID: pydicom.dcmread(file).ImagePositionPatient for file in files}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == list(own[source])


def test_an_exact_series_has_the_same_grid_as_in_itk(tmp_path: Path) -> None:
    image = upright(ARRAY, (0.703125, 0.703125, 1.25))
    image.SetDirection(sitk.DICOMOrient(image, "ASL").GetDirection())
    image.SetOrigin((-173.828, 12.345, -401.75))
    write_series(tmp_path, image)
    series = find_series(tmp_path)
    by_itk = sitk.ReadImage([str(part.file) for part in series.slices], imageIO="GDCMImageIO")
    assert series.grid.origin == by_itk.GetOrigin()
    assert series.grid.spacing == by_itk.GetSpacing()
    assert series.grid.direction == by_itk.GetDirection()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_labels_of_a_series_with_rounded_orientation_become_objects(tmp_path: Path) -> None:
    write_series(tmp_path, *turned(17, 2))
    array = np.zeros(ARRAY.shape, np.uint8)
    array[3:30, 1:4, 2:5] = 6
    labels = read_volume(tmp_path).with_array(array).restored()
    origin = LabelOrigin("final", 1)
    assert (read_seg(write_seg(labels, tmp_path, origin), tmp_path) == array).all()
    assert (read_rtstruct(write_rtstruct(labels, tmp_path, origin), tmp_path) == array).all()
