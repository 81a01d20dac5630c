"""Stored values are converted to HU by each slice's own rule, for all encodings; pydicom computes the expected values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.volume import read_volume
from series_files import Change, in_one_slice, upright, write_enhanced, write_series

ARRAY = np.random.default_rng(2).integers(-1000, 1000, (5, 16, 17))


def by_pydicom(files: list[Path]) -> np.ndarray:
    """Returns the HU that pydicom computes, `[slices, rows, columns]`."""
    slices = [pydicom.dcmread(file) for file in files]
    return np.stack([apply_modality_lut(ds.pixel_array, ds) for ds in slices]).astype(np.float32)


def as_uint16(ds: Dataset, n: int) -> None:
    """Stores every second slice as unsigned values up to 41000; the other slices are signed."""
    if n % 2:
        stored = np.frombuffer(ds.PixelData, "<i2").astype(np.int32) + 40_000
        ds.PixelRepresentation, ds.RescaleIntercept, ds.PixelData = 0, -41_024, stored.astype("<u2").tobytes()


def scaled(ds: Dataset, n: int) -> None:
    ds.RescaleSlope, ds.RescaleIntercept = [1, 2, 0.5, 1.25, 1][n], [-1024, -1000, 0, -24.5, 70_000][n]


def in_8_bits(ds: Dataset, n: int) -> None:
    if n == 2:
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation, ds.RescaleSlope = 7, 0, 4
        ds.PixelData = bytes(range(256)) + bytes(16)


def in_32_bits(ds: Dataset, n: int) -> None:
    stored = np.frombuffer(ds.PixelData, "<i2").astype("<i4") * 1000
    ds.BitsAllocated = ds.BitsStored = 32
    ds.HighBit, ds.RescaleSlope, ds.PixelData = 31, "0.001", stored.tobytes()


def without_rule(ds: Dataset, n: int) -> None:
    del ds.RescaleSlope, ds.RescaleIntercept


def looked_up(ds: Dataset, n: int) -> None:
    without_rule(ds, n)
    stored = np.frombuffer(ds.PixelData, "<i2") % 64
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [64, 0, 16], "HU"
    table.LUTData = np.linspace(0, 3000 + n, 64).astype("<u2").tobytes()
    ds.ModalityLUTSequence, ds.PixelRepresentation, ds.PixelData = [table], 0, stored.astype("<u2").tobytes()


def inverted_display(ds: Dataset, n: int) -> None:
    ds.PhotometricInterpretation = "MONOCHROME1"


@pytest.mark.parametrize(
    "change",
    [as_uint16, scaled, in_8_bits, in_32_bits, without_rule, looked_up, inverted_display],
)
def test_each_slice_is_rescaled_by_its_own_rule(tmp_path: Path, change: Change) -> None:
    files = write_series(tmp_path, upright(ARRAY), change)
    volume = read_volume(tmp_path)
    assert (volume.array == by_pydicom(files)).all()
    assert volume.remarks == ()


def test_an_intercept_without_a_slope_is_applied(tmp_path: Path) -> None:
    def without_slope(ds: Dataset, n: int) -> None:
        ds.RescaleSlope = None

    write_series(tmp_path, upright(ARRAY), without_slope)
    assert (read_volume(tmp_path).array == ARRAY).all()


def test_unused_bits_are_ignored(tmp_path: Path) -> None:
    def overlaid(ds: Dataset, n: int) -> None:
        stored = np.frombuffer(ds.PixelData, "<i2").astype("<u2") & 0x0FFF
        stored |= np.uint16(0xA000)
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.PixelData = 12, 11, 0, stored.tobytes()

    write_series(tmp_path, upright(ARRAY), overlaid)
    assert (read_volume(tmp_path).array == ARRAY).all()


def in_upper_bits(ds: Dataset, n: int) -> None:
    stored = (np.frombuffer(ds.PixelData, "<i2").astype("<u2") & 0x0FFF) << 4
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.PixelData = 12, 15, 0, stored.tobytes()


def test_values_in_upper_bits_are_read(tmp_path: Path) -> None:
    write_series(tmp_path, upright(ARRAY), in_upper_bits)
    assert (read_volume(tmp_path).array == ARRAY).all()


def test_compressed_values_in_upper_bits_are_refused(tmp_path: Path) -> None:
    def packed(ds: Dataset, n: int) -> None:
        in_upper_bits(ds, n)
        ds.compress(RLELossless)

    write_series(tmp_path, upright(ARRAY), packed)
    with pytest.raises(InputError, match="12 bits are stored, but the highest is number 15"):
        read_volume(tmp_path)


def test_a_lookup_table_in_only_some_slices_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, upright(ARRAY), lambda ds, n: looked_up(ds, n) if n else without_rule(ds, n))
    with pytest.raises(InputError, match="1 slices without ModalityLUTSequence"):
        read_volume(tmp_path)


def test_a_lookup_table_that_is_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    def cut(ds: Dataset, n: int) -> None:
        looked_up(ds, n)
        ds.ModalityLUTSequence[0].LUTData = b"\0\0"

    write_series(tmp_path, upright(ARRAY), cut)
    with pytest.raises(InputError, match=r"000\.dcm: has a modality lookup table that cannot be used"):
        read_volume(tmp_path)


def test_frames_missing_from_the_offset_table_are_refused(tmp_path: Path) -> None:
    def cut(ds: Dataset, n: int) -> None:
        ds.compress(RLELossless)
        frames = list(generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames))
        ds.PixelData = encapsulate(frames[:3], has_bot=True)

    write_enhanced(tmp_path, upright(ARRAY), cut)
    with pytest.raises(InputError, match="lacks the pixels of 2 of its 5 frames"):
        read_volume(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("tag", "value", "problem"),
    [
        ("RescaleSlope", 0, "slope of 0"),
        ("RescaleSlope", "nan", "RescaleSlope 'nan', which is not a number"),
        ("RescaleIntercept", "inf", "RescaleIntercept 'inf', which is not a number"),
        ("RescaleIntercept", None, "1 slices without RescaleIntercept"),
        ("PixelData", b"\0" * 40, "pixels that cannot be decoded"),
        ("SamplesPerPixel", 3, "colours"),
        ("PhotometricInterpretation", "PALETTE COLOR", "colours"),
    ],
)
def test_a_slice_without_meaningful_values_is_refused(tmp_path: Path, tag: str, value: object, problem: str) -> None:
    write_series(tmp_path, upright(ARRAY), in_one_slice(tag, value))
    with pytest.raises(InputError, match=problem):
        read_volume(tmp_path)


def saved_as(syntax: str) -> Callable[[Path], None]:
    def rewrite(file: Path) -> None:
        ds = pydicom.dcmread(file)
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(file, ds, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian)

    return rewrite


def compressed(syntax: str) -> Callable[[Path], None]:
    def rewrite(file: Path) -> None:
        ds = pydicom.dcmread(file)
        ds.compress(syntax)
        ds.save_as(file)

    return rewrite


def by_itk(compressor: str) -> Callable[[Path], None]:
    """Returns a function that compresses a slice with ITK's writer; `JPEG` is lossless there."""

    def rewrite(file: Path) -> None:
        ds = pydicom.dcmread(file)
        frame, syntax = itk_frame(np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns), file.parent, compressor)
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = encapsulate([frame])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.save_as(file)

    return rewrite


def itk_frame(plane: np.ndarray, folder: Path, compressor: str) -> tuple[bytes, str]:
    writer, part = sitk.ImageFileWriter(), folder / ".part.dcm"
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(part))
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(sitk.GetImageFromArray(np.ascontiguousarray(plane)[None]))
    ds = pydicom.dcmread(part)
    part.unlink()
    return next(generate_frames(ds.PixelData, number_of_frames=1)), ds.file_meta.TransferSyntaxUID


@pytest.mark.parametrize(
    "rewrite",
    [
        saved_as(ImplicitVRLittleEndian),
        saved_as(ExplicitVRBigEndian),
        saved_as(DeflatedExplicitVRLittleEndian),
        compressed(RLELossless),
        compressed(JPEGLSLossless),
        by_itk("JPEG"),
        by_itk("JPEG2000"),
    ],
    ids=["implicit", "big-endian", "deflated", "rle", "jpeg-ls", "jpeg-lossless", "jpeg-2000"],
)
def test_encodings_give_the_same_values(tmp_path: Path, rewrite: Callable[[Path], None]) -> None:
    for file in write_series(tmp_path, upright(ARRAY)):
        rewrite(file)
    assert (read_volume(tmp_path).array == ARRAY).all()


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_compressed_frames_are_decoded_one_by_one(tmp_path: Path, compressor: str) -> None:
    def packed(ds: Dataset, n: int) -> None:
        planes = np.frombuffer(ds.PixelData, "<i2").reshape(-1, ds.Rows, ds.Columns)
        frames, syntaxes = zip(*(itk_frame(plane, tmp_path, compressor) for plane in planes), strict=True)
        ds.file_meta.TransferSyntaxUID = syntaxes[0]
        ds.PixelData = encapsulate(list(frames), has_bot=False)
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True

    write_enhanced(tmp_path, upright(ARRAY), packed, order=[4, 0, 2, 1, 3])
    assert (read_volume(tmp_path).array == ARRAY).all()


def test_pixels_that_cannot_be_decoded_are_refused_by_name(tmp_path: Path) -> None:
    files = write_series(tmp_path, upright(ARRAY))
    by_itk("JPEG2000")(files[2])
    content = files[2].read_bytes()
    place = content.index(b"\xff\x4f\xff\x51")
    files[2].write_bytes(content[: place + 60] + bytes(len(content) - place - 68) + content[-8:])
    with pytest.raises(InputError, match=r"002\.dcm: has pixels that cannot be decoded \(JPEG 2000"):
        read_volume(tmp_path)
