"""Grids of NRRD and MHA files are the same as in ITK if ITK reads the file; otherwise they are corrected or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import checked_header
from medsam2_atlas.imaging.volume import read_grid, read_labels, read_volume

VOXELS = (np.arange(480) % 200).astype(np.uint8)
LPS = ["space: left-posterior-superior"]
ALONG = ["space directions: (0.7,0,0) (0,0.8,0) (0,0,5)", "space origin: (10,20,30)"]


def mha(file: Path, *lines: str, sizes: str = "10 8 6", kind: str = "MET_UCHAR") -> Path:
    header = ["ObjectType = Image", f"NDims = {len(sizes.split())}", "BinaryData = True", f"DimSize = {sizes}", *lines]
    file.write_bytes("\n".join([*header, f"ElementType = {kind}", "ElementDataFile = LOCAL", ""]).encode() + VOXELS.tobytes())
    return file


def nrrd(file: Path, *lines: str, sizes: str = "10 8 6", kind: str = "uchar") -> Path:
    header = [
        "NRRD0005",
        f"type: {kind}",
        f"dimension: {len(sizes.split())}",
        f"sizes: {sizes}",
        "encoding: raw",
        *lines,
        "",
        "",
    ]
    file.write_bytes("\n".join(header).encode() + VOXELS.tobytes())
    return file


def grid_of(file: Path) -> str:
    grid = checked_header(file).grid
    assert grid is not None
    return plain(grid.spacing, grid.origin, grid.direction)


def by_itk(file: Path) -> str:
    image = sitk.ReadImage(str(file))
    return plain(image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def plain(*parts: tuple[float, ...]) -> str:
    """Returns all digits of numbers, as the keys of stored registrations contain them; -0 becomes 0."""
    return repr([value + 0.0 for part in parts for value in part])


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["ElementSpacing = 0.7 0.8 5", "Offset = 10 20 30", "TransformMatrix = 0 1 0 0 0 1 1 0 0"],
        ["ElementSize = 0.7 0.8 5", "Origin = 10 20 30", "Rotation = 1 0 0 0 0 -1 0 1 0"],
        ["ElementSize = 4 5 6", "ElementSpacing = 1 2 3", "Position = 2 2 2", "Offset = 1 1 1", "Origin = 3 3 3"],
        ["Position = 2 2 2", "Offset = 1 1 1"],
        ["Orientation = 0 0 1 0 1 0 1 0 0", "Rotation = 0 1 0 1 0 0 0 0 1", "DistanceUnits = mm"],
        ["TransformMatrix = 0.8 0.6 0 -0.6 0.8 0 0 0 1", "CenterOfRotation = 0 0 0", "AnatomicalOrientation = RAI"],
    ],
)
def test_grids_of_mha_files_are_the_same_as_itks(tmp_path: Path, lines: list[str]) -> None:
    file = mha(tmp_path / "x.mha", *lines)
    assert grid_of(file) == by_itk(file)
    assert read_volume(file).remarks == ()


@pytest.mark.parametrize("space", ["left-posterior-superior", "LPS", "RAS", "right-anterior-superior", "LAS", "scanner-xyz"])
@pytest.mark.parametrize(
    "directions", ["(0.7,0,0) (0,0.8,0) (0,0,5)", "(0,0,0.7) (-0.8,0,0) (0,5,0)", "(0.6,0.8,0) (-0.8,0.6,0) (0,0,-5)"]
)
def test_grids_of_nrrd_files_in_a_space_are_the_same_as_itks(tmp_path: Path, space: str, directions: str) -> None:
    lines = [f"space: {space}", f"space directions: {directions}", "space origin: (10.5,20,30)"]
    file = nrrd(tmp_path / "x.nrrd", *lines)
    assert grid_of(file) == by_itk(file)
    assert ("does not give its orientation" in " ".join(read_volume(file).remarks)) == (space == "scanner-xyz")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["spacings: 1 2 3"],
        ["spacings: 1 2 3", "axis mins: 10 20 30"],
        ["spacings: 1 2 3", "axis mins: 10 20 30", "centers: node cell node"],
        ["spacings: 1 2 3", "axis mins: 10 20 30", "centers: node node node", "kinds: space space space"],
        ["space dimension: 3", "space directions: (1,0,0) (0,2,0) (0,0,3)"],
        [*LPS, "space directions: (1,0,0) (0,2,0) (0,0,3)", "measurement frame: (0,1,0) (1,0,0) (0,0,1)"],
    ],
)
def test_grids_of_other_nrrd_files_are_the_same_as_itks(tmp_path: Path, lines: list[str]) -> None:
    file = nrrd(tmp_path / "x.nrrd", *lines)
    assert grid_of(file) == by_itk(file)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([*LPS, "space directions: (0.7,0,0) (0.02,0.8,0) (0,0,5)"], "deviate by 1.4°"),
        ([*LPS, "space directions: (0,0,0) (0,0.8,0) (0,0,5)"], "axis without length"),
        ([*LPS, "space directions: (nan,0,0) (0,0.8,0) (0,0,5)"], "infinite or NaN"),
        ([*LPS, "space directions: none (0,0.8,0) (0,0,5)"], "infinite or NaN"),
        ([*LPS, "space directions: (0.7,0) (0,0.8,0) (0,0,5)"], "its space directions is"),
        ([*LPS, "space directions: (0.7,0,0) (0,0.8,0)"], "its space directions are"),
        ([*LPS, "space directions: (0.7,0,0) (0.7,0,0) (0,0,5)"], "at right angles"),
        ([*LPS, "spacings: 1 2 3"], "has no directions in it"),
        ([*LPS, *ALONG, 'space units: "m" "mm" "mm"'], "its units of length are m, mm"),
        ([*LPS, *ALONG, 'space units: "inch" "inch" "inch"'], "its units of length are inch"),
        (["spacings: 0 2 3"], "axis without length"),
        (["spacings: nan 2 3"], "its spacings are"),
        (["space: sideways", *ALONG], "its space is 'sideways'"),
        (["spacings: 70 80 500"], "3 m long: its voxel spacing is"),
        (["space directions: (1,0,0) (0,2,0) (0,0,3)"], "does not name"),
    ],
)
def test_an_unusable_nrrd_grid_is_refused_with_the_reason(tmp_path: Path, lines: list[str], words: str) -> None:
    file = nrrd(tmp_path / "x.nrrd", *lines)
    for read in (read_volume, read_grid):
        with pytest.raises(InputError, match=words):
            read(file)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["TransformMatrix = 1 0 0 0.1 1 0 0 0 1"], "deviate by 5.7°"),
        (["TransformMatrix = 0 0 0 0 1 0 0 0 1"], "axis without length"),
        (["TransformMatrix = 1 0 0 1 0 0 0 0 1"], "at right angles"),
        (["TransformMatrix = nan 0 0 0 1 0 0 0 1"], "its TransformMatrix is"),
        (["ElementSpacing = 0 1 1"], "axis without length"),
        (["ElementSpacing = inf 1 1"], "its ElementSpacing is"),
        (["ElementSpacing = 1e308 1e308 1e308"], "m long"),
        (["ElementSpacing = 700 800 5000"], "Is it in µm"),
    ],
)
def test_an_unusable_mha_grid_is_refused_with_the_reason(tmp_path: Path, lines: list[str], words: str) -> None:
    file = mha(tmp_path / "x.mha", *lines)
    for read in (read_volume, read_grid):
        with pytest.raises(InputError, match=words):
            read(file)


SKEWED = ((0.7, 0, 0), (0.002, 0.8, 0), (0, 0, 5))


def test_axes_that_are_slightly_skewed_are_straightened(tmp_path: Path) -> None:
    unit = [np.array(axis) / np.linalg.norm(axis) for axis in SKEWED]
    rows = " ".join(str(value) for axis in unit for value in axis)
    files = [
        nrrd(tmp_path / "x.nrrd", *LPS, f"space directions: {' '.join(str(axis).replace(' ', '') for axis in SKEWED)}"),
        mha(tmp_path / "x.mha", "ElementSpacing = 0.7 0.8 5", f"TransformMatrix = {rows}"),
    ]
    for file in files:
        volume = read_volume(file)
        assert "deviated by 0.14° from right angles" in " ".join(volume.remarks)
        axes = np.reshape(volume.file_geometry.direction, (3, 3))
        assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-12)
        assert np.allclose(volume.file_geometry.spacing, (0.7, 0.8, 5), atol=1e-5)


def test_left_handed_axes_are_read(tmp_path: Path) -> None:
    file = nrrd(tmp_path / "x.nrrd", *LPS, "space directions: (-0.7,0,0) (0,0.8,0) (0,0,5)", "space origin: (10,20,30)")
    assert grid_of(file) == by_itk(file)
    volume = read_volume(file)
    assert volume.array[0, 0].tolist() == list(range(9, -1, -1))
    assert volume.geometry.origin[0] == pytest.approx(10 - 9 * 0.7)


def test_a_negative_spacing_reverses_its_axis(tmp_path: Path) -> None:
    files = [
        mha(tmp_path / "x.mha", "ElementSpacing = -0.7 0.8 5", "Offset = 10 20 30"),
        nrrd(tmp_path / "x.nrrd", "spacings: -0.7 0.8 5"),
    ]
    for file in files:
        volume = read_volume(file)
        assert "is negative: the direction of that axis was reversed" in " ".join(volume.remarks)
        assert volume.array[0, 0].tolist() == list(range(9, -1, -1))
        assert volume.geometry.spacing == pytest.approx((0.7, 0.8, 5))
        start = 10.0 if file.suffix == ".mha" else 0.0
        assert volume.geometry.origin[0] == pytest.approx(start - 9 * 0.7)


def test_lengths_of_axes_multiply_the_spacing(tmp_path: Path) -> None:
    file = mha(tmp_path / "x.mha", "ElementSpacing = 1 1 1", "TransformMatrix = 0.7 0 0 0 0.8 0 0 0 5")
    volume = read_volume(file)
    assert volume.file_geometry.spacing == pytest.approx((0.7, 0.8, 5))
    assert "instead of 1" in " ".join(volume.remarks)


@pytest.mark.parametrize(
    ("lines", "scale"),
    [
        (['space units: "m" "m" "m"'], 1000.0),
        (['space units: "um" "um" "um"'], 0.001),
        (['space units: "µm" "µm" "µm"'], 0.001),
        (['space units: "cm" "cm" "cm"'], 10.0),
        (['space units: "mm" "mm" "mm"'], 1.0),
        (['space units: "" "" ""'], 1.0),
        ([], 1000.0),
    ],
)
def test_units_of_an_nrrd_space_are_converted(tmp_path: Path, lines: list[str], scale: float) -> None:
    steps = " ".join(
        str(tuple(float(v) / scale for v in axis)).replace(" ", "") for axis in ((0.7, 0, 0), (0, 0.8, 0), (0, 0, 5))
    )
    file = nrrd(
        tmp_path / "x.nrrd",
        *LPS,
        f"space directions: {steps}",
        f"space origin: ({10 / scale},{20 / scale},{30 / scale})",
        *lines,
    )
    volume = read_volume(file)
    assert volume.file_geometry.spacing == pytest.approx((0.7, 0.8, 5))
    assert volume.file_geometry.origin == pytest.approx((10, 20, 30))
    assert bool(volume.remarks) == (scale != 1)


def test_units_of_an_mha_file_are_converted(tmp_path: Path) -> None:
    for unit, scale in (("um", 0.001), ("cm", 10.0)):
        spacing = " ".join(str(value / scale) for value in (0.7, 0.8, 5))
        volume = read_volume(mha(tmp_path / "x.mha", f"ElementSpacing = {spacing}", f"DistanceUnits = {unit}"))
        assert volume.file_geometry.spacing == pytest.approx((0.7, 0.8, 5))
        assert "were converted to mm" in " ".join(volume.remarks)


@pytest.mark.parametrize(
    ("lines", "sizes", "words"),
    [
        (["kinds: RGB-color domain domain domain"], "3 10 8 2", "colours"),
        (["kinds: RGBA-color domain domain domain"], "4 10 6 2", "colours"),
        (["kinds: complex domain domain domain"], "2 10 8 3", "complex numbers"),
        (["kinds: vector domain domain domain"], "2 10 8 3", "contains 2 values per voxel"),
        (["kinds: list domain domain domain"], "2 10 8 3", "contains 2 values per voxel, such as layers"),
        ([*LPS, "space directions: none (1,0,0) (0,2,0) (0,0,3)", "kinds: list domain domain domain"], "2 10 8 3", "2 values"),
        (["kinds: domain domain domain time"], "10 8 3 2", "has 4 dimensions"),
        ([], "10 8 3 2", "has 4 dimensions"),
        ([], "10 48", "has 2 dimensions"),
        (["space dimension: 2", "space directions: (1,0) (0,1)", "space origin: (0,0)"], "10 48", "has 2 dimensions"),
        ([], "10 48 1", "at least two slices"),
        (["kinds: domain domain"], "10 8 6", "3 axes and 2 kinds"),
    ],
)
def test_values_other_than_grey_values_of_a_volume_are_reported(
    tmp_path: Path, lines: list[str], sizes: str, words: str
) -> None:
    file = nrrd(tmp_path / "x.nrrd", *lines, sizes=sizes)
    with pytest.raises(InputError, match=words):
        read_volume(file)


@pytest.mark.parametrize(
    ("lines", "sizes", "words"),
    [
        (["ElementNumberOfChannels = 3"], "10 8 2", "colours"),
        (["ElementNumberOfChannels = 2"], "10 8 3", "contains 2 values per voxel"),
        ([], "10 8 3 2", "has 4 dimensions"),
    ],
)
def test_values_of_mha_files_other_than_grey_values_are_reported(
    tmp_path: Path, lines: list[str], sizes: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_volume(mha(tmp_path / "x.mha", *lines, sizes=sizes))


def test_further_axes_of_size_one_are_ignored(tmp_path: Path) -> None:
    directions = "(0.7,0,0) (0,0.8,0) (0,0,5)"
    plain = read_volume(nrrd(tmp_path / "x.nrrd", *LPS, f"space directions: {directions}"))
    files = [
        nrrd(tmp_path / "a.nrrd", *LPS, f"space directions: none {directions}", sizes="1 10 8 6"),
        nrrd(tmp_path / "b.nrrd", *LPS, f"space directions: {directions} none", sizes="10 8 6 1"),
        nrrd(
            tmp_path / "c.nrrd",
            *LPS,
            f"space directions: none {directions}",
            "kinds: list domain domain domain",
            sizes="1 10 8 6",
        ),
        mha(
            tmp_path / "d.mha",
            "ElementSpacing = 0.7 0.8 5 1",
            "TransformMatrix = 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
            sizes="10 8 6 1",
        ),
    ]
    for file in files:
        volume = read_volume(file)
        assert (volume.array == plain.array).all(), file
        assert volume.geometry == plain.geometry
        assert read_grid(file) == plain.geometry


def test_errors_of_itk_are_shown_without_addresses_and_paths(tmp_path: Path) -> None:
    file = nrrd(tmp_path / "x.nrrd", "kinds: 3-gradient domain domain domain", sizes="2 10 8 3")
    file.write_bytes(file.read_bytes().replace(b"3-gradient", b"my-own-kind"))
    with pytest.raises(InputError) as caught:
        read_labels(file)
    assert "contains 2 values" in str(caught.value)
    text = nrrd(tmp_path / "y.nrrd")
    text.write_bytes(text.read_bytes().replace(b"encoding: raw", b"encoding: hex"))
    with pytest.raises(InputError) as caught:
        read_labels(text)
    assert "cannot be read as an image: " in str(caught.value)
    assert "[nrrd]" in str(caught.value)
    assert "0x" not in str(caught.value)
    assert "/proc" not in str(caught.value)
    assert "Give a CT" not in str(caught.value)
