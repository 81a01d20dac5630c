"""Images of any orientation, spacing and obliquity are read, and results are written on exactly the file's grid."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.demo.phantoms.scanner import ORIENTATIONS
from medsam2_atlas.imaging.volume import Geometry, Volume, from_sitk, read_grid, read_labels, read_volume, write_volume


def image_of(array: np.ndarray, code: str, spacing: tuple[float, float, float], tilt: tuple[float, float, float]) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((12.5, -40.0, 77.0))
    image.SetDirection(Rotation.from_euler("xyz", tilt, degrees=True).as_matrix().ravel().tolist())
    return sitk.DICOMOrient(image, code)


def same_grid(a: sitk.Image, b: sitk.Image) -> bool:
    return (a.GetSize(), a.GetSpacing(), a.GetOrigin(), a.GetDirection()) == (
        b.GetSize(),
        b.GetSpacing(),
        b.GetOrigin(),
        b.GetDirection(),
    )


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_each_of_the_48_orientations_is_read_as_lps_and_restored_on_its_own_grid(code: str) -> None:
    array = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    image = image_of(array, code, (1.0, 2.0, 3.0), (0, 0, 0))
    volume = from_sitk(image)
    assert volume.array.tolist() == array.tolist()
    back = volume.restored()
    assert same_grid(back, image)
    assert sitk.GetArrayFromImage(back).tolist() == sitk.GetArrayFromImage(image).tolist()


@settings(max_examples=60, deadline=None)
@given(
    code=st.sampled_from(ORIENTATIONS),
    shape=st.tuples(*[st.integers(2, 6)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    tilt=st.tuples(*[st.floats(-25, 25)] * 3),
)
def test_oblique_volumes_come_back_voxel_for_voxel(
    code: str, shape: tuple[int, int, int], spacing: tuple[float, float, float], tilt: tuple[float, float, float]
) -> None:
    image = image_of(np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16), code, spacing, tilt)
    volume = from_sitk(image)
    back = volume.restored()
    assert same_grid(back, image)
    assert (sitk.GetArrayFromImage(back) == sitk.GetArrayFromImage(image)).all()
    index = np.array([[n - 1 for n in volume.geometry.size], [0, 0, 0], [1, 0, 1]])
    for i, j in zip(index, volume.to_file_index(index), strict=True):
        assert volume.array[tuple(i[::-1])] == image.GetPixel(*(int(v) for v in j))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(code=st.sampled_from(ORIENTATIONS), suffix=st.sampled_from([".nii.gz", ".nii", ".nrrd", ".mha"]))
def test_files_of_all_formats_keep_their_grid(tmp_path: Path, code: str, suffix: str) -> None:
    image = image_of(
        np.random.default_rng(1).integers(-1000, 1000, (4, 5, 6)).astype(np.int16), code, (1, 1.5, 2.5), (5, -3, 8)
    )
    sitk.WriteImage(image, str(tmp_path / f"ct{suffix}"))
    volume = read_volume(tmp_path / f"ct{suffix}")
    assert read_grid(tmp_path / f"ct{suffix}").matches(volume.geometry, 1e-4)
    write_volume(volume.with_array((volume.array > 0).astype(np.uint8)), tmp_path / f"label{suffix}")
    read, written = (sitk.ReadImage(str(tmp_path / f"{name}{suffix}")) for name in ("ct", "label"))
    assert Geometry.of(written).matches(Geometry.of(read), 1e-4)
    assert ((sitk.GetArrayFromImage(read) > 0) == (sitk.GetArrayFromImage(written) == 1)).all()


def test_to_index_is_the_inverse_of_to_world(tiny: Volume) -> None:
    index = np.array([[9.0, 7.0, 5.0], [0.5, 2.0, 1.0]])
    assert np.allclose(tiny.geometry.to_index(tiny.geometry.to_world(index)), index)
    assert tiny.geometry.to_world(np.array([1, 1, 1])).tolist() == [-8.5, 22.0, 33.0]


def test_label_maps_must_contain_whole_numbers_on_the_images_grid(tmp_path: Path, tiny: Volume) -> None:
    image = tiny.restored()
    sitk.WriteImage(image + 0.5, str(tmp_path / "half.nii.gz"))
    with pytest.raises(InputError, match="not whole numbers"):
        read_labels(tmp_path / "half.nii.gz")
    image = sitk.Cast(image * 0, sitk.sitkUInt8)
    image.SetSpacing((1.5, 2.0, 3.1))
    sitk.WriteImage(image, str(tmp_path / "other.nii.gz"))
    with pytest.raises(InputError, match="a different grid"):
        read_labels(tmp_path / "other.nii.gz", tiny)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_a_file_that_ends_too_early_is_refused(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(np.arange(480, dtype=np.int16).reshape(6, 8, 10))
    sitk.WriteImage(image, str(tmp_path / f"whole{suffix}"))
    (tmp_path / f"cut{suffix}").write_bytes((tmp_path / f"whole{suffix}").read_bytes()[:-200])
    assert read_volume(tmp_path / f"whole{suffix}").array.max() == 479
    with pytest.raises(InputError, match=r"cut off|cannot be read"):
        read_volume(tmp_path / f"cut{suffix}")


def test_a_packed_file_with_too_few_bytes_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(480, dtype=np.int16).reshape(6, 8, 10))
    sitk.WriteImage(image, str(tmp_path / "whole.nii"))
    with gzip.open(tmp_path / "packed.nii.gz", "wb") as stream:
        stream.write((tmp_path / "whole.nii").read_bytes()[:-200])
    with pytest.raises(InputError, match="1112 bytes of 1312"):
        read_volume(tmp_path / "packed.nii.gz")


def test_a_packed_file_may_have_several_members_and_zeros_at_its_end(tmp_path: Path) -> None:
    array = np.random.default_rng(2).integers(-1000, 1000, (6, 8, 10)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "whole.nii"))
    content = (tmp_path / "whole.nii").read_bytes()
    packed = gzip.compress(content[:500]) + gzip.compress(content[500:]) + bytes(512)
    (tmp_path / "parts.nii.gz").write_bytes(packed)
    assert (read_volume(tmp_path / "parts.nii.gz").array == array).all()
    spoiled = bytearray(packed)
    spoiled[len(gzip.compress(content[:500])) - 5] ^= 1  # in the first member's checksum
    (tmp_path / "parts.nii.gz").write_bytes(bytes(spoiled))
    with pytest.raises(InputError, match="broken gzip file"):
        read_volume(tmp_path / "parts.nii.gz")


@pytest.mark.parametrize("name", ["label.txt", "label.NII.GZ", "label.mhd", "label"])
def test_only_suffixes_that_can_be_read_back_are_written(name: str, tmp_path: Path) -> None:
    grid = Geometry((5, 4, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="suffix"):
        write_volume(Volume(np.zeros(grid.shape, np.uint8), grid, grid), tmp_path / name)
    assert not list(tmp_path.iterdir())
