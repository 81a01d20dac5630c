"""Reads DICOM files, with or without preamble, and limits the unpacked size of deflated files."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding.sniff import is_dicom

_MAX_INFLATED_BYTES = 256 << 20
_MAX_INFLATED_DATA_BYTES = 2 << 30
_BLOCK = 1 << 20
_DEFER_BYTES = 1 << 20


def dicom_header(file: Path, tags: Sequence[str] | None = None) -> Dataset:
    """Returns the attributes of a DICOM file, without its pixels.

    pydicom unpacks a whole deflated file at once, so its unpacked length is counted first.

    Args:
        file: the file to read.
        tags: keywords of the attributes to keep; all of them by default.

    Raises:
        InputError: the file is not DICOM, or is deflated and unpacks to more than 256 MiB.
        OSError: the file cannot be read.
    """
    return _read(file, stop_before_pixels=True, specific_tags=list(tags) if tags else None, defer_size=_DEFER_BYTES)


def dicom_dataset(file: Path) -> pydicom.FileDataset:
    """Returns the attributes of a DICOM file with its pixels, which are still encoded. See `dicom_header`.

    Raises:
        InputError: the file is not DICOM, or is deflated and unpacks to more than 2 GiB.
        OSError: the file cannot be read.
    """
    return _read(file, limit=_MAX_INFLATED_DATA_BYTES)


def _read(file: Path, limit: int = _MAX_INFLATED_BYTES, **options: Any) -> pydicom.FileDataset:
    check_deflated(file, limit)
    try:
        # `force` allows files without preamble; `check_deflated` has refused files that are not DICOM.
        return pydicom.dcmread(file, force=True, **options)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise no_dicom(file, error) from error


def attribute(dataset: Dataset, tag: str, malformed: object = None) -> Any:
    """Returns the value of an attribute.

    Args:
        dataset: the dataset that contains the attribute.
        tag: keyword of the attribute.
        malformed: the result if the value is not valid for its value representation.

    Returns:
        The value; None if the attribute is missing.
    """
    try:
        return dataset.get(tag)
    except Exception:  # noqa: BLE001 pydicom converts values on access, and raises many types of errors
        return malformed


def check_deflated(file: Path, limit: int = _MAX_INFLATED_BYTES) -> None:
    """Checks the unpacked length of a deflated DICOM file; accepts other files.

    Raises:
        InputError: the file is not DICOM, is damaged, or unpacks to more than `limit` bytes.
        OSError: the file cannot be read.
    """
    if not is_dicom(file):
        raise no_dicom(file, "it does not begin like one")
    with file.open("rb") as stream:
        try:
            # Not `read_file_meta_info`: the count must begin at the byte where pydicom begins to unpack.
            read_preamble(stream, force=True)
            syntax = _read_file_meta_info(stream).get("TransferSyntaxUID")
        except OSError:
            raise
        except Exception as error:
            raise no_dicom(file, error) from error
        if syntax != DeflatedExplicitVRLittleEndian:
            return
        unpacking, length = zlib.decompressobj(-zlib.MAX_WBITS), 0
        try:
            while block := stream.read(_BLOCK):
                while block:
                    length += len(unpacking.decompress(block, _BLOCK))
                    block = unpacking.unconsumed_tail
                    if length > limit:
                        raise InputError(
                            file,
                            f"is a deflated DICOM file that unpacks to more than {limit >> 20} MiB.",
                            "Export it with another transfer syntax.",
                        )
        except zlib.error as error:
            raise no_dicom(file, error) from error


def no_dicom(file: Path, error: Exception | str) -> InputError:
    """Returns the error for a file that pydicom cannot read."""
    return InputError(file, f"is not a DICOM file ({str(error)[:200]}).", "Export the series again.")
