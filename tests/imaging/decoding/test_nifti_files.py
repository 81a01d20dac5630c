"""NIfTI files of many programs give the same grid and values as in nibabel, and as in ITK if ITK reads the file."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from files.nifti_files import write_nifti
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import checked_header
from medsam2_atlas.imaging.decoding.nifti import nifti_header
from medsam2_atlas.imaging.decoding.nifti_voxels import nifti_voxels
from medsam2_atlas.imaging.volume import read_grid, read_volume

ARRAY = (np.arange(480, dtype=np.int16) * 7 % 301 - 100).reshape(10, 8, 6)
"""The voxels, `[x, y, z]` as in nibabel."""
TO_LPS = np.array([-1.0, -1.0, 1.0])


def affine(degrees: Any, spacing: Any, origin: Any) -> np.ndarray:
    """Returns the affine `[4, 4]` from voxel indices to mm in RAS."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * spacing
    matrix[:3, 3] = origin
    return matrix


def written(
    file: Path,
    sform: np.ndarray,
    codes: tuple[int, int] = (0, 1),
    qform: np.ndarray | None = None,
    array: np.ndarray = ARRAY,
    **fields: Any,
) -> Path:
    """Writes a NIfTI file; see `write_nifti`."""
    return write_nifti(file, array, sform, codes, qform=qform, **fields)


def found(file: Path) -> str:
    grid = checked_header(file).grid
    assert grid is not None
    return repr((grid.spacing, grid.origin, grid.direction))


def by_itk(file: Path) -> str:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    return repr((reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()))


def corners(file: Path) -> np.ndarray:
    grid = read_grid(file)
    return grid.to_world(np.array([[0, 0, 0], [n - 1 for n in grid.size]]))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1), (2, 2), (0, 2), (0, 0), (1, 4)])
def test_grids_are_the_same_as_itks_to_the_last_digit(tmp_path: Path, seed: int, codes: tuple[int, int]) -> None:
    """The keys of stored registrations contain all digits."""
    draw = np.random.default_rng(seed)
    degrees = draw.choice([0, 90, 180, -90], 3) if seed % 3 == 0 else draw.uniform(-180, 180, 3)
    matrix = affine(degrees, draw.uniform(0.3, 6, 3), draw.uniform(-300, 300, 3))
    if seed % 2:
        matrix[:3, 0] *= -1  # left-handed
    qform = affine(degrees, draw.uniform(0.3, 6, 3), draw.uniform(-300, 300, 3)) if seed % 4 == 3 else matrix
    file = written(tmp_path / "x.nii", matrix, codes, qform, xyzt_units=[0, 2, 10][seed % 3])
    try:
        known = by_itk(file)
    except (
        RuntimeError
    ):  # ITK refuses the sform because of rounding: see `test_axes_within_half_a_degree_of_right_angles_are_straightened`
        assert codes[0] == 0
        return
    if codes in ((2, 2), (1, 4)) and qform is matrix:
        # ITK compares the singular vectors of both, whose signs are arbitrary, so it may use either form.
        known = found(written(tmp_path / "s.nii", matrix, (0, 1), xyzt_units=[0, 2, 10][seed % 3]))
    assert found(file) == known


@pytest.mark.parametrize("codes", [(q, s) for q in range(4) for s in range(4)])
def test_the_same_form_is_used_as_in_itk(tmp_path: Path, codes: tuple[int, int]) -> None:
    file = written(
        tmp_path / "x.nii", affine((0, 0, 7), (1, 2, 3), (11, 21, 31)), codes, affine((5, 0, 0), (1, 2, 3), (10, 20, 30))
    )
    assert found(file) == by_itk(file)
    remarks = " ".join(checked_header(file).grid.remarks)  # type: ignore[union-attr]
    assert ("its qform differ" in remarks) == (min(codes) > 0)
    assert ("does not give its orientation" in remarks) == (max(codes) == 0)


@pytest.mark.parametrize("degrees", [0.02, 0.1, 0.45])
def test_axes_within_half_a_degree_of_right_angles_are_straightened(tmp_path: Path, degrees: float) -> None:
    matrix = affine((3, -4, 12), (0.7, 0.8, 2.5), (-170, -150, -700))
    matrix[:3, 1] += matrix[:3, 0] / 0.7 * 0.8 * np.tan(np.radians(degrees))
    file = written(tmp_path / "x.nii.gz", matrix)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(file))
    volume = read_volume(file)
    assert any(f"{degrees:.2g}° from right angles" in remark for remark in volume.remarks)
    assert np.allclose(volume.file_geometry.origin, matrix[:3, 3] * TO_LPS, atol=1e-4)
    assert np.allclose(volume.file_geometry.spacing, (0.7, 0.8, 2.5), atol=1e-4)
    axes = np.reshape(volume.file_geometry.direction, (3, 3))
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    expected = matrix[:3, :3] * TO_LPS[:, None] / np.linalg.norm(matrix[:3, :3], axis=0)
    turned = np.degrees(np.arccos(np.clip((axes * expected).sum(0), -1, 1)))
    assert turned.max() <= degrees / 2 + 0.01
    assert volume.restored().GetSize() == ARRAY.shape


def test_an_sform_that_itk_refuses_because_of_rounding_is_used(tmp_path: Path) -> None:
    matrix = affine((0, 0, 0), (0.7, 0.7, 5), (-170, -150, -755))
    file = written(tmp_path / "x.nii", matrix)
    grid = checked_header(file).grid
    assert grid is not None
    assert grid.remarks == ()
    assert np.allclose(grid.origin, (170, 150, -755))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m[:3, 1].__iadd__(m[:3, 0] * 0.1), r"not at right angles: they deviate by 2\.\d°, more than 0.5°"),
        (lambda m: m[:3, 1].__imul__(0), "axis without length"),
        (lambda m: m[1, 1:2].__imul__(np.nan), "NaN"),
        (lambda m: m[:3, 3].__imul__(np.inf), "NaN"),
        (lambda m: m[:3, 1].__imul__(0).__iadd__(m[:3, 0]), "not at right angles"),
    ],
)
def test_an_unusable_sform_is_refused_with_the_reason(tmp_path: Path, change: Any, words: str) -> None:
    matrix = affine((3, 0, 0), (1, 2, 3), (10, 20, 30))
    change(matrix)
    fields = {f"srow_{axis}": matrix[row].astype(np.float32) for row, axis in enumerate("xyz")}
    for suffix in (".nii", ".nii.gz"):
        file = written(tmp_path / f"x{suffix}", affine((3, 0, 0), (1, 2, 3), (10, 20, 30)), **fields)
        for read in (checked_header, read_volume, read_grid):
            with pytest.raises(InputError, match=words):
                read(file)
    known = written(tmp_path / "q.nii", affine((3, 0, 0), (1, 2, 3), (10, 20, 30)), (1, 0))
    assert found(written(tmp_path / "x.nii", affine((3, 0, 0), (1, 2, 3), (10, 20, 30)), (1, 1), **fields)) == found(known)


@pytest.mark.parametrize(
    ("unit", "scale", "remark"),
    [(1, 1000.0, "in metres"), (3, 0.001, "in µm"), (0, 1.0, ""), (2, 1.0, ""), (10, 1.0, ""), (9, 1000.0, "in metres")],
)
def test_lengths_in_metres_and_micrometres_are_converted(tmp_path: Path, unit: int, scale: float, remark: str) -> None:
    matrix = affine((0, 0, 5), np.array([0.7, 0.8, 5]) / scale, np.array([-100, -120, 300]) / scale)
    plain = written(tmp_path / "mm.nii", affine((0, 0, 5), (0.7, 0.8, 5), (-100, -120, 300)))
    for codes in ((1, 0), (0, 1)):
        file = written(tmp_path / "x.nii", matrix, codes, xyzt_units=unit)
        assert np.allclose(corners(file), corners(plain), atol=1e-3)
        remarks = " ".join(read_volume(file).remarks)
        assert remark in remarks
        assert bool(remark) == bool(remarks)
        assert found(file) == by_itk(file)


@pytest.mark.parametrize(("unit", "factor"), [(2, 1e-3), (0, 1e-3), (1, 1.0), (3, 1.0)])
def test_an_implausible_unit_is_corrected_if_another_one_fits(tmp_path: Path, unit: int, factor: float) -> None:
    """Lengths in metres are declared as mm, and lengths in mm as metres or µm."""
    matrix = affine((0, 0, 5), np.array([0.7, 0.8, 5]) * factor, np.array([-100, -120, 300]) * factor)
    plain = written(tmp_path / "mm.nii", affine((0, 0, 5), (0.7, 0.8, 5), (-100, -120, 300)))
    array = np.resize(ARRAY, (10, 8, 400))
    file = written(tmp_path / "x.nii", matrix, xyzt_units=unit, array=array)
    assert np.allclose(read_grid(file).spacing, (0.7, 0.8, 5))
    assert np.allclose(read_grid(file).to_world(np.zeros(3))[2], read_grid(plain).to_world(np.zeros(3))[2], atol=1e-3)
    assert "Its header gives lengths in" in " ".join(read_volume(file).remarks)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (0, 0)])
def test_the_sign_of_pixdim_has_no_meaning(tmp_path: Path, codes: tuple[int, int]) -> None:
    matrix = affine((0, 0, 5), (1, 2, 3), (10, 20, 30))
    plain = written(tmp_path / "plain.nii", matrix, codes)
    file = written(tmp_path / "x.nii", matrix, codes, pixdim=[1, -1, 2, -3, 1, 1, 1, 1])
    assert np.allclose(corners(file), corners(plain))
    assert "is negative" in " ".join(read_volume(file).remarks)


def test_an_invalid_pixdim_is_replaced_by_the_sforms_spacing_or_refused(tmp_path: Path) -> None:
    matrix = affine((0, 0, 5), (1.5, 2, 3), (10, 20, 30))
    for value in (0, np.nan, np.inf):
        pixdim = [1, value, 2, 3, 1, 1, 1, 1]
        volume = read_volume(written(tmp_path / "x.nii", matrix, (0, 1), pixdim=pixdim))
        assert np.allclose(volume.file_geometry.spacing, (1.5, 2, 3))
        assert "the spacing of its sform is used" in " ".join(volume.remarks)
        with pytest.raises(InputError, match="its pixdim is"):
            read_grid(written(tmp_path / "y.nii", matrix, (1, 0), pixdim=pixdim))


def test_a_pixdim_that_differs_from_the_sform_is_used_as_in_itk(tmp_path: Path) -> None:
    file = written(tmp_path / "x.nii", affine((0, 0, 5), (1.5, 2, 3), (10, 20, 30)), pixdim=[1, 1, 2, 3, 1, 1, 1, 1])
    assert found(file) == by_itk(file)
    assert "pixdim is used" in " ".join(read_volume(file).remarks)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0, 0), (np.nan, np.nan), (1, -1024), (0.1, 3.7), (-2, 0)])
def test_values_are_the_same_as_in_itk_and_nibabel(
    tmp_path: Path, dtype: str, endianness: str, slope: float, intercept: float
) -> None:
    array = np.abs(ARRAY).astype(dtype) if dtype[0] == "u" else (ARRAY % 120).astype(dtype)
    file = written(tmp_path / "x.nii", np.eye(4), array=array, endianness=endianness, scl_slope=slope, scl_inter=intercept)
    voxels = nifti_voxels(file, nifti_header(file))
    assert voxels.dtype.isnative
    known = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    assert voxels.dtype == known.dtype
    assert (voxels == known).all()
    assert np.allclose(voxels, np.asanyarray(nibabel.load(file).dataobj).T, rtol=1e-6, atol=1e-4)


def test_an_intercept_without_a_slope_is_not_added(tmp_path: Path) -> None:
    """The standard requires this, and nibabel does so; ITK adds the intercept."""
    file = written(tmp_path / "x.nii", np.eye(4), scl_slope=0, scl_inter=-1024)
    volume = read_volume(file)
    assert volume.array.min() == ARRAY.min() == np.asanyarray(nibabel.load(file).dataobj).min()
    assert "intercept -1024" in " ".join(volume.remarks)


def test_an_intercept_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scaled by 1 and shifted by nan"):
        read_volume(written(tmp_path / "x.nii", np.eye(4), scl_inter=np.nan))


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_the_content_not_the_suffix_decides_whether_a_file_is_packed(tmp_path: Path, name: str) -> None:
    matrix = affine((0, 0, 5), (1, 2, 3), (10, 20, 30))
    whole = written(tmp_path / "whole.nii", matrix).read_bytes()
    (tmp_path / name).write_bytes(whole if name.endswith(".gz") else gzip.compress(whole))
    volume = read_volume(tmp_path / name)
    known = read_volume(tmp_path / "whole.nii")
    assert (volume.array == known.array).all()
    assert volume.file_geometry == known.file_geometry == read_volume(tmp_path / "whole.nii").file_geometry
    assert "though its name ends in" in " ".join(volume.remarks)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-40])
    with pytest.raises(InputError, match=r"cut off|its end is missing"):
        read_volume(tmp_path / name)


def test_version_2_is_read(tmp_path: Path) -> None:
    matrix = affine((3, -4, 12), (0.7, 0.8, 2.5), (-170, -150, 30))
    for endianness in "<>":
        file = written(tmp_path / "x.nii.gz", matrix, kind=nibabel.Nifti2Header, endianness=endianness)
        volume = read_volume(file)
        index = np.array([[0, 0, 0], [9, 7, 5]])
        world = nibabel.affines.apply_affine(nibabel.load(file).affine, index) * TO_LPS
        assert np.allclose(volume.file_geometry.to_world(index), world, atol=1e-4)
        assert (np.sort(volume.array.ravel()) == np.sort(ARRAY.ravel())).all()


@pytest.mark.parametrize("seed", range(6))
def test_voxels_have_the_same_position_as_in_nibabel(tmp_path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    degrees = draw.uniform(-180, 180, 3)
    matrix = affine(degrees, draw.uniform(0.5, 3, 3), draw.uniform(-100, 100, 3))
    volume = read_volume(written(tmp_path / "x.nii", matrix, (1, 1)))
    index = draw.integers(0, ARRAY.shape, (5, 3))
    world = nibabel.affines.apply_affine(nibabel.load(tmp_path / "x.nii").affine, index) * TO_LPS
    places = np.rint(volume.geometry.to_index(world)).astype(int)
    assert [volume.array[z, y, x] for x, y, z in places] == [ARRAY[tuple(i)] for i in index]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((10, 8, 6, 1), ""),
        ((10, 8, 6, 1, 1), ""),
        ((10, 8, 6, 2), "has 4 dimensions"),
        ((10, 8, 6, 1, 3), "contains 3 values per voxel"),
        ((10, 48), "has 2 dimensions"),
        ((10, 48, 1), "at least two slices"),
    ],
)
def test_more_or_fewer_than_three_axes_are_reported(tmp_path: Path, shape: tuple[int, ...], words: str) -> None:
    file = written(tmp_path / "x.nii", np.eye(4), array=np.resize(ARRAY, shape))
    if not words:
        assert sorted(read_volume(file).array.shape) == [6, 8, 10]
        return
    with pytest.raises(InputError, match=words):
        read_volume(file)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), "colours"),
        (np.dtype("c8"), "complex numbers"),
        (np.dtype("c16"), "complex numbers"),
    ],
)
def test_colours_and_complex_numbers_are_reported(tmp_path: Path, dtype: np.dtype, words: str) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((10, 8, 6), dtype), np.eye(4)), tmp_path / "x.nii.gz")
    for read in (read_volume, read_grid):
        with pytest.raises(InputError, match=words):
            read(tmp_path / "x.nii.gz")


@pytest.mark.parametrize(
    ("code", "words"), [(1, "of one bit"), (1536, "of 128 bits"), (0, "of an unknown type"), (77, "data type is 77")]
)
def test_unsupported_types_are_reported(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_volume(written(tmp_path / "x.nii", np.eye(4), datatype=code))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"NRRD0004\ntype: short\n" + bytes(400), "it is an NRRD file, not a NIfTI file as its suffix says"),
        (b"ObjectType = Image\n" + bytes(400), "it is a MetaImage file"),
        (b"PK\x03\x04" + bytes(400), "it is a ZIP archive"),
        (bytes(128) + b"DICM" + bytes(400), "it is a DICOM file"),
    ],
)
def test_a_file_of_another_kind_is_reported(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.nii").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_volume(tmp_path / "x.nii")


def test_a_file_that_is_packed_twice_is_reported(tmp_path: Path) -> None:
    content = written(tmp_path / "x.nii.gz", np.eye(4)).read_bytes()
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match="packed by gzip twice"):
        read_volume(tmp_path / "x.nii.gz")


def test_nan_is_found_whether_or_not_values_are_scaled(tmp_path: Path) -> None:
    array = ARRAY.astype(np.float32)
    array[3, 4, 5] = np.nan
    for slope in (1, 2):
        with pytest.raises(InputError, match="1 voxels that are NaN"):
            read_volume(written(tmp_path / "x.nii", np.eye(4), array=array, scl_slope=slope))
