"""Decodes the slices of a series and converts stored values to HU, each slice by its own rescale attributes.

pydicom decodes uncompressed pixels. GDCM, a library in ITK, decodes compressed pixels. It gets each frame separately, as a file
in memory with a header written here. So GDCM reads no header from outside and applies no rules of its own.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.dicom.series.find import Series
from medsam2_atlas.dicom.series.slices import Slice
from medsam2_atlas.dicom.texts import line
from medsam2_atlas.imaging.decoding.dicom import dicom_dataset

_AGAIN = "Export the series again."
_EXACT = 2**23
"""Below this value, sums of 16-bit integers and integers are exact in 32-bit floating point."""
_INT16 = (-(2**15), 2**15 - 1)
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_DESCRIPTION = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")


def hounsfield(series: Series) -> np.ndarray:
    """Returns the values of a series in HU.

    Returns:
        `[slices, rows, columns]`, in the series' order: int16 if all values that the headers allow fit, else float32.

    Raises:
        InputError: pixels are missing or cut short, cannot be decoded, or are not grey values.
        OSError: a file cannot be read.
    """
    places: dict[Path, dict[int, int]] = {}
    for n, part in enumerate(series.slices):
        places.setdefault(part.file, {})[part.frame or 0] = n
    fits = all(_fits(part) for part in series.slices)
    values = np.empty(series.grid.shape, np.int16 if fits else np.float32)
    for file, frames in places.items():
        ds, missing = dicom_dataset(file), set(frames)
        for frame, stored in _frames(file, ds, frames):
            n = frames[frame]
            if stored.shape != series.slices[n].size:
                raise InputError(file, f"has pixels of shape {stored.shape}, not {series.slices[n].size}.", _AGAIN)
            values[n] = _rescaled(stored, series.slices[n], ds)
            missing.discard(frame)
        if missing:  # its offset table names fewer frames than its header
            raise InputError(file, f"lacks the pixels of {len(missing)} of its {len(frames)} frames.", _AGAIN)
    return values


def one_slice(part: Slice) -> np.ndarray:
    """Returns the values of one slice in HU, `[rows, columns]` float32.

    Raises:
        InputError: its pixels are missing or cut short, cannot be decoded, or are not grey values.
        OSError: the file cannot be read.
    """
    ds, frame = dicom_dataset(part.file), part.frame or 0
    for _, stored in _frames(part.file, ds, {frame: 0}):
        if stored.shape != part.size:
            raise InputError(part.file, f"has pixels of shape {stored.shape}, not {part.size}.", _AGAIN)
        return np.asarray(_rescaled(stored, part, ds), np.float32)
    raise InputError(part.file, "lacks the pixels of a frame.", _AGAIN)


def _fits(part: Slice) -> bool:
    """Returns whether all values that a slice can have are 16-bit integers."""
    (slope, intercept), (bits, signed) = part.rescale.numbers, part.stored
    if part.rescale.table or slope % 1 or intercept % 1 or bits > 16:
        return False
    ends = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return all(_INT16[0] <= end * slope + intercept <= _INT16[1] for end in ends)


def _rescaled(stored: np.ndarray, part: Slice, ds: Dataset) -> np.ndarray:
    if part.rescale.table:
        try:
            result: np.ndarray = apply_modality_lut(stored, ds)
        except Exception as error:  # pydicom raises many kinds of errors for malformed tables
            problem = f"has a modality lookup table that cannot be used ({_reason(error)})."
            raise InputError(part.file, problem, _AGAIN) from error
        return result
    slope, intercept = part.rescale.numbers
    if slope == 1 and intercept % 1 == 0 and stored.dtype.kind in "iu" and stored.itemsize <= 2 and abs(intercept) < _EXACT:
        return np.add(stored, intercept, dtype=np.float32)  # exact, and faster than in 64 bits
    return stored * float(slope) + intercept


def _frames(file: Path, ds: FileDataset, frames: Mapping[int, int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the stored values of the frames of a file."""
    if not any(tag in ds for tag in _PIXELS):
        raise InputError(file, "has no pixels, or they are cut short.", _AGAIN)
    meta = getattr(ds, "file_meta", Dataset())
    syntax = UID(str(meta.get("TransferSyntaxUID") or _plain_syntax(ds)))
    if syntax not in AllTransferSyntaxes:
        raise InputError(file, f"is written in an unknown transfer syntax ({line(syntax)}).", "Export it uncompressed.")
    try:
        if not syntax.is_encapsulated:
            decoder = get_decoder(syntax)
            for frame in frames:
                # pydicom's own correction of unused bits does not look at HighBit.
                stored, _ = decoder.as_array(ds, index=frame, raw=True, correct_unused_bits=False)  # type: ignore[arg-type]
                yield frame, _whole_bits(stored, ds)
            return
        header = _canonical_header(ds, syntax)
        count = int(ds.get("NumberOfFrames") or 1)
        offsets = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths) if "ExtendedOffsetTable" in ds else None
        for frame, content in enumerate(generate_frames(ds.PixelData, number_of_frames=count, extended_offsets=offsets)):
            if frame in frames:
                yield frame, _by_gdcm(header, content)
    except (MemoryError, OSError):
        raise
    except Exception as error:
        how = f" ({syntax.name})" if syntax.is_encapsulated else ""
        raise InputError(file, f"has pixels that cannot be decoded{how}: {_reason(error)}.", _AGAIN) from error


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[-1][:200].rstrip(".") if text else type(error).__name__


def _plain_syntax(ds: FileDataset) -> UID:
    """Returns the transfer syntax of a file that names none, derived from the encoding of its elements."""
    implicit, little = ds.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _whole_bits(stored: np.ndarray, ds: Dataset) -> np.ndarray:
    """Returns values whose unused bits repeat the sign or are 0. In the file, unused bits may have any value."""
    allocated, bits = int(ds.BitsAllocated), int(ds.get("BitsStored") or ds.BitsAllocated)
    if stored.dtype.kind == "f" or not 0 < bits < allocated:
        return stored
    high = int(ds.get("HighBit") or bits - 1)
    left = allocated - 1 - (high if bits - 1 <= high < allocated else bits - 1)
    result: np.ndarray = (stored << left) >> (allocated - bits)
    return result


def _canonical_header(ds: Dataset, syntax: UID) -> bytes:
    """Returns the beginning of a single-frame DICOM file, up to its pixels, with only the attributes that describe them.

    Raises:
        ValueError: values are stored in the upper bits, which decoders interpret in different ways.
    """
    if int(ds.BitsStored) <= int(ds.HighBit) < int(ds.BitsAllocated):
        raise ValueError(f"{ds.BitsStored} bits are stored, but the highest is number {ds.HighBit}")
    plain = Dataset()
    plain.SOPClassUID, plain.SOPInstanceUID = CTImageStorage, generate_uid()
    plain.StudyInstanceUID = plain.SeriesInstanceUID = generate_uid()
    plain.Modality, plain.SamplesPerPixel, plain.PhotometricInterpretation = "CT", 1, "MONOCHROME2"
    for tag in _DESCRIPTION:
        setattr(plain, tag, int(ds[tag].value))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = plain.SOPClassUID, plain.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    plain.file_meta = meta
    stream = BytesIO()
    dcmwrite(stream, plain, enforce_file_format=True)
    return stream.getvalue()


def _by_gdcm(header: bytes, content: bytes) -> np.ndarray:
    """Returns the stored values of a compressed frame, `[rows, columns]`."""
    padded = content + b"\0" * (len(content) % 2)
    with open(os.memfd_create("frame"), "w+b") as file:  # noqa: PTH123 a descriptor has no path
        file.write(header)
        file.write(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff")  # pixel data of undefined length
        file.write(b"\xfe\xff\x00\xe0" + bytes(4))  # no offset table
        file.write(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(padded)))
        file.write(padded)
        file.write(b"\xfe\xff\xdd\xe0" + bytes(4))
        file.flush()
        image = sitk.ReadImage(f"/proc/self/fd/{file.fileno()}", imageIO="GDCMImageIO")
    stored: np.ndarray = sitk.GetArrayFromImage(image)
    return stored.reshape(stored.shape[-2:])
