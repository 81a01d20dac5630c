"""The stored values of DICOM instances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom.instances.values import to_stored
from medsam2_atlas.dicom.texts import decimal
from medsam2_atlas.imaging.decoding import run_task
from oriented_files import direction_of, small_ct


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int32, np.float32, np.uint8])
def test_whole_numbers_are_stored_exactly(kind: type) -> None:
    array = np.array([0, 1, 77, 128, 200, 255, 3, 9], kind).reshape(2, 2, 2)
    stored, slope, intercept = to_stored(array)
    assert (stored.dtype, slope, intercept) == (np.int16, 1.0, 0.0)
    np.testing.assert_array_equal(stored, array)


@pytest.mark.parametrize(("low", "high"), [(0, 65535), (-40000, 20000), (100_000, 160_000)])
def test_whole_numbers_outside_of_16_bit_get_an_intercept(low: int, high: int) -> None:
    array = np.linspace(low, high, 64).round().astype(np.int32).reshape(4, 4, 4)
    stored, slope, intercept = to_stored(array)
    assert slope == 1.0
    np.testing.assert_array_equal(stored * slope + intercept, array)


@pytest.mark.parametrize(("low", "high"), [(-1024.3, 3071.9), (0.0, 1.0), (-3e5, 1e6), (1e-6, 2e-6), (5e4, 5e4 + 0.5)])
def test_other_values_are_off_by_at_most_half_the_slope(low: float, high: float) -> None:
    array = np.random.default_rng(0).uniform(low, high, (5, 6, 7))
    array.flat[0], array.flat[1] = low, high
    stored, slope, intercept = to_stored(array)
    assert float(decimal(slope)) == slope
    assert float(decimal(intercept)) == intercept
    assert np.abs(stored * slope + intercept - array).max() <= slope / 2 * (1 + 1e-6)
    assert slope <= 4 * (high - low) / 65535


def test_a_ct_with_fractions_of_hu_is_off_by_at_most_a_32nd_of_a_hu() -> None:
    array = np.random.default_rng(1).uniform(-1024, 3071, (4, 5, 6)).astype(np.float32)
    stored, slope, intercept = to_stored(array)
    assert slope == 0.0625
    assert np.abs(stored * slope + intercept - array).max() <= 1 / 32


def test_a_reader_process_returns_the_voxels_in_lps_orientation_with_both_grids(tmp_path: Path) -> None:
    image, file = small_ct(direction_of("ASR")), tmp_path / "a.nii.gz"
    sitk.WriteImage(image, str(file))
    content, (array,) = run_task("stored_volume", file, path=str(file))
    upright = sitk.DICOMOrient(image, "LPS")
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(upright))
    assert (content["slope"], content["intercept"]) == (1.0, 0.0)
    assert tuple(content["geometry"]["size"]) == upright.GetSize()
    np.testing.assert_allclose(content["geometry"]["origin"], upright.GetOrigin(), atol=1e-4)
    assert tuple(content["file_geometry"]["size"]) == image.GetSize()


def test_a_ct_with_nan_is_refused(tmp_path: Path) -> None:
    image, file = sitk.Cast(small_ct(np.eye(3)), sitk.sitkFloat32), tmp_path / "a.nii.gz"
    image[1, 1, 1] = float("nan")
    sitk.WriteImage(image, str(file))
    with pytest.raises(InputError, match="NaN"):
        run_task("stored_volume", file, path=str(file))
