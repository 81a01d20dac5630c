"""Headers are checked strictly before any library opens the file."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import check_extent, check_length, checked_header
from medsam2_atlas.imaging.decoding.dicom import dicom_header
from medsam2_atlas.imaging.volume import from_sitk, read_grid, read_labels, read_volume
from series_files import upright, write_series

ARRAY = (np.arange(480) % 16).reshape(6, 8, 10)


def written(file: Path, kind: type = np.int16, compress: bool = False) -> Path:
    sitk.WriteImage(upright(ARRAY) if kind is np.int16 else sitk.GetImageFromArray(ARRAY.astype(kind)), str(file), compress)
    return file


def changed(file: Path, *changes: tuple[bytes, bytes]) -> Path:
    content = file.read_bytes()
    for old, new in changes:
        assert old in content
        content = content.replace(old, new, 1)
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("compress", [True, False])
def test_files_written_by_itk_are_accepted(tmp_path: Path, suffix: str, kind: type, compress: bool) -> None:
    file = written(tmp_path / f"image{suffix}", kind, compress)
    header = checked_header(file)
    assert [n for n in header.sizes if n > 1] == [10, 8, 6]
    assert header.data_bytes == 480 * np.dtype(kind).itemsize
    check_length(file, header)


def test_files_written_by_other_programs_are_accepted(tmp_path: Path) -> None:
    voxels = ARRAY.astype("<i2").tobytes()
    lines = ["NRRD0004", "# by 3D Slicer", "type: short", "dimension: 3", "space: left-posterior-superior", "sizes: 10 8 6"]
    lines += ["space directions: (1,0,0) (0,1,0) (0,0,1)", "kinds: domain domain domain", "endian: little", "encoding: gzip"]
    lines += ["space origin: (0,0,0)", "Segment0_Name:=liver", "", ""]
    (tmp_path / "slicer.nrrd").write_bytes("\n".join(lines).encode() + gzip.compress(voxels))
    (tmp_path / "windows.nrrd").write_bytes("\r\n".join(lines).encode() + gzip.compress(voxels))
    (tmp_path / "text.nrrd").write_text("\n".join(lines).replace("gzip", "ascii") + " ".join(map(str, ARRAY.ravel())))
    header = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False", "CompressedData = True"]
    header += [f"CompressedDataSize = {len(zlib.compress(voxels))}", "0008|0060 = CT", "Comment = a = b", "DimSize = 10 8 6"]
    header += ["ElementType = MET_SHORT", "ElementDataFile = LOCAL", ""]
    (tmp_path / "metadata.mha").write_bytes("\n".join(header).encode() + zlib.compress(voxels))
    for file in sorted(tmp_path.iterdir()):
        found = checked_header(file)
        check_length(file, found)
        assert found.values == 480, file


def secret(folder: Path) -> Path:
    (folder / "tokens.yaml").write_bytes(b"- {name: max, role: admin, token: " + b"s" * 960)
    return folder / "tokens.yaml"


def metaimage_path(folder: Path) -> Path:
    return changed(written(folder / "x.mha"), (b"= LOCAL", f"= {secret(folder)}".encode()))


def metaimage_list(folder: Path) -> Path:
    return changed(written(folder / "x.mha"), (b"= LOCAL\n", f"= LIST\n{secret(folder)}\n".encode()))


def metaimage_pattern(folder: Path) -> Path:
    return changed(written(folder / "x.mha"), (b"= LOCAL", b"= tokens.%d 1 6 1"))


def metaimage_device(folder: Path) -> Path:
    return changed(written(folder / "x.mha"), (b"= LOCAL", b"= /dev/zero"))


def metaimage_hidden(folder: Path) -> Path:
    hidden = f"Comment = x\rElementDataFile = {secret(folder)}\n".encode()
    return changed(written(folder / "x.mha"), (b"NDims", hidden + b"NDims"))


def metaimage_second(folder: Path) -> Path:
    line = f"ElementDataFile = {secret(folder)}\n".encode()
    return changed(written(folder / "x.mha"), (b"ElementDataFile", line + b"ElementDataFile"))


def nrrd_path(folder: Path) -> Path:
    return changed(written(folder / "x.nrrd"), (b"\n\n", f"\ndata file: {secret(folder)}\n\n".encode()))


def nrrd_path_alone(folder: Path) -> Path:
    file = changed(written(folder / "x.nrrd"), (b"\n\n", f"\ndatafile: {secret(folder)}\n".encode()))
    file.write_bytes(file.read_bytes().split(b"tokens.yaml")[0] + b"tokens.yaml\n")
    return file


def nrrd_list(folder: Path) -> Path:
    return changed(written(folder / "x.nrrd"), (b"\n\n", f"\nDATA FILE: LIST\n{secret(folder)}\n\n".encode()))


def nifti_pair(folder: Path) -> Path:
    secret(folder).rename(folder / "x.img")
    return changed(written(folder / "x.nii"), (b"n+1\0", b"ni1\0"))


@pytest.mark.parametrize(
    "make",
    [
        *(metaimage_path, metaimage_list, metaimage_pattern, metaimage_device, metaimage_hidden, metaimage_second),
        *(nrrd_path, nrrd_path_alone, nrrd_list, nifti_pair),
    ],
)
def test_no_header_can_name_another_file(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"in another file|cannot be read as an image"):
        checked_header(make(tmp_path))


HIDING = ["\u00a0ElementDataFile = LOCAL", "ElementDataFile\u00a0= LOCAL", "\u3000ElementDataFile = LOCAL"]
HIDING += ["\u2028ElementDataFile = LOCAL", "ElementDataFile = LoCaL", "ElementDataFile : LOCAL", " ElementDataFile = local"]


@pytest.mark.parametrize("line", HIDING)
def test_no_line_that_itk_parses_differently_reveals_a_file(tmp_path: Path, line: str) -> None:
    """Each line is parsed differently by this parser and MetaIO, and is followed by a line that names a file."""
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "DimSize = 10 8 6", "ElementType = MET_UCHAR", line]
    (tmp_path / "LoCaL").write_bytes(b"s" * 480)
    hidden = f"\nElementDataFile = {secret(tmp_path)}\n".encode()
    (tmp_path / "x.mha").write_bytes("\n".join(lines).encode() + hidden + bytes(480))
    try:
        voxels = read_labels(tmp_path / "x.mha").array.tobytes()
    except InputError:
        return
    assert b"s" * 9 not in voxels


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        (".mha", b"\n", b"\r\n"),
        (".mha", b" = ", b": "),
        (".mha", b"ObjectType = Image\n", b"\nObjectType = Image\nComment = ElementDataFile\nComment = a = b\n"),
        (".mha", b"ObjectType = Image\n", "ObjectType = Image\nPatientName = Müller\n".encode()),
        (".nrrd", b"\n\n", b"\nbyte skip: -1\n\n"),
        (".nrrd", b"\n\n", b"\nSegment0_Tags:=" + b"a" * 40_000 + b"\n\n"),
        (".nrrd", b"\n\n", "\n# Müller\nPatient:=Müller\n\n".encode()),
    ],
)
def test_files_of_other_tools_are_read_as_by_itk(tmp_path: Path, suffix: str, old: bytes, new: bytes) -> None:
    image = upright(ARRAY)
    image.SetDirection((0.0, 1.0, 0.0, 0.8, 0.0, -0.6, -0.6, 0.0, -0.8))
    file = tmp_path / f"x{suffix}"
    sitk.WriteImage(image, str(file), False)
    known = from_sitk(sitk.ReadImage(str(file)))
    content = file.read_bytes()
    place = content.index(b"LOCAL\n") + 6 if suffix == ".mha" else content.index(b"\n\n") + 2
    assert old in content[:place]
    file.write_bytes(content[:place].replace(old, new) + content[place:])
    found = read_volume(file)
    assert (found.array == known.array).all()
    assert found.geometry.matches(known.geometry)
    assert found.file_geometry.matches(known.file_geometry)
    assert read_grid(file).matches(known.geometry)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("compress", [True, False])
def test_canonical_headers_give_the_same_image_in_itk(tmp_path: Path, suffix: str, kind: type, compress: bool) -> None:
    image = sitk.GetImageFromArray(ARRAY.astype(kind))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-101.5, 20.25, -3.0))
    image.SetDirection((0.0, 1.0, 0.0, 0.8, 0.0, -0.6, -0.6, 0.0, -0.8))
    sitk.WriteImage(image, str(tmp_path / f"x{suffix}"), compress)
    known, found = from_sitk(image), read_volume(tmp_path / f"x{suffix}")
    assert (found.array == known.array).all()
    assert found.file_geometry.matches(known.file_geometry)


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        (".mha", b"NDims = 3", b"NDims = -1"),
        (".mha", b"NDims = 3", b"NDims = 99999999999999999999"),
        (".mha", b"DimSize = 10 8 6", b"DimSize = 10 8"),
        (".mha", b"DimSize = 10 8 6", b"DimSize = 10 8 -6"),
        (".mha", b"DimSize = 10 8 6", b"DimSize = 100000 100000 100000"),
        (".mha", b"MET_SHORT", b"MET_STRING"),
        (".mha", b"Offset = -10 -20 30", b"Offset = -10 -20"),
        (".mha", b"ObjectType = Image\n", b"ObjectType = Image\nElementNumberOfChannels = 1000000\n"),
        (".mha", b"ObjectType = Image\n", b"ObjectType = Image\nHeaderSize = 40\n"),
        (".nrrd", b"dimension: 3", b"dimension: -1"),
        (".nrrd", b"sizes: 10 8 6", b"sizes: 10 8 0"),
        (".nrrd", b"sizes: 10 8 6", b"sizes: 4294967296 4294967296 2"),
        (".nrrd", b"type: short", b"type: block"),
        (".nrrd", b"type: short", b"type: short\nline skip: 3"),
        (".nii", struct.pack("<8h", 3, 10, 8, 6, 1, 1, 1, 1), struct.pack("<8h", 3, 10, 8, -6, 1, 1, 1, 1)),
        (".nii", struct.pack("<8h", 3, 10, 8, 6, 1, 1, 1, 1), struct.pack("<8h", -3, 10, 8, 6, 1, 1, 1, 1)),
        (".nii", struct.pack("<8h", 3, 10, 8, 6, 1, 1, 1, 1), struct.pack("<8h", 3, 32000, 32000, 6, 1, 1, 1, 1)),
        (".nii", struct.pack("<f", 352), struct.pack("<f", float("nan"))),
        (".nii", struct.pack("<f", 352), struct.pack("<f", 1e30)),
    ],
)
def test_a_malformed_or_immense_header_never_reaches_a_library(tmp_path: Path, suffix: str, old: bytes, new: bytes) -> None:
    file = changed(written(tmp_path / f"x{suffix}"), (old, new))
    with pytest.raises(InputError, match=r"cannot be read as an image|million voxels"):
        checked_header(file)


@pytest.mark.parametrize(
    ("spacing", "words"),
    [
        ((8.0, 8.0, 50.0), r"4.1 m long: its voxel spacing is \(8, 8, 50\) mm. Is it ten times too large\?"),
        ((700.0, 700.0, 5000.0), r"358 m long.*Is it in µm\?"),
        ((0.0007, 0.0007, 0.005), r"finer than 0.02 mm: its voxel spacing is \(0.0007, 0.0007, 0.005\) mm. Is it in metres\?"),
        ((0.7, 0.7, 0.005), "No CT has such fine voxels"),
    ],
)
def test_implausible_spacing_is_explained(tmp_path: Path, spacing: tuple[float, float, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_extent(tmp_path / "x.nii", (512, 512, 60), spacing)
    check_extent(tmp_path / "x.nii", (512, 512, 2000), (0.98, 0.98, 1.25))


@pytest.mark.parametrize("spacing", [(400.0, 300.0, 500.0), (1.5, 2.0, 0.005)])
def test_images_larger_or_finer_than_any_ct_are_not_decoded(tmp_path: Path, spacing: tuple[float, float, float]) -> None:
    image = upright(ARRAY)
    image.SetSpacing(spacing)
    for suffix in (".mha", ".nrrd", ".nii.gz"):
        sitk.WriteImage(image, str(tmp_path / f"x{suffix}"))
        for read in (read_volume, read_labels, read_grid):
            with pytest.raises(InputError, match="its voxel spacing is"):
                read(tmp_path / f"x{suffix}")


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.nii")
    (tmp_path / "y.mha").symlink_to("/dev/zero")
    for name in ("x.nii", "y.mha"):
        with pytest.raises(InputError, match="not a file"):
            checked_header(tmp_path / name)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_packed_file_that_unpacks_to_more_than_its_header_claims_is_refused(tmp_path: Path, suffix: str) -> None:
    file = written(tmp_path / f"x{suffix}", compress=True)
    header, bomb = checked_header(file), bytes(80 << 20)
    content = file.read_bytes()
    if suffix == ".nii.gz":
        file.write_bytes(gzip.compress(gzip.decompress(content) + bomb, 1))
    else:
        pack = (lambda data: gzip.compress(data, 1)) if suffix == ".nrrd" else (lambda data: zlib.compress(data, 1))
        file.write_bytes(content[: header.offset] + pack(ARRAY.astype("<i2").tobytes() + bomb))
    with pytest.raises(InputError, match="far more than its header claims"):
        check_length(file, header)


def test_unpacking_a_deflated_dicom_file_is_limited(tmp_path: Path) -> None:
    file = write_series(tmp_path, upright(ARRAY))[0]
    assert dicom_header(file).Modality == "CT"
    content = file.read_bytes()
    packing = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packing.compress(bytes(300 << 20)) + packing.flush()
    deflated = content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0\0", 1)
    place = content.index(b"1.2.840.10008.1.2.1\0")
    deflated = content[: place - 2] + struct.pack("<H", 22) + b"1.2.840.10008.1.2.1.99" + content[place + 20 :]
    (length,) = struct.unpack_from("<I", deflated, 140)
    start = deflated[:140] + struct.pack("<I", length + 2) + deflated[144 : 144 + length + 2]
    file.write_bytes(start + bomb)
    with pytest.raises(InputError, match="unpacks to more than"):
        dicom_header(file)


@pytest.mark.parametrize("content", [b"", b"a text file", bytes(200)])
def test_a_file_that_is_not_dicom_is_reported_as_such(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.dcm").write_bytes(content)
    with pytest.raises(InputError, match="is not a DICOM file"):
        dicom_header(tmp_path / "x.dcm")
