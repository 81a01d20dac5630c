"""Recognises DICOM files by their first bytes, without pydicom."""

from __future__ import annotations

import struct
from pathlib import Path

_PREAMBLE, _PREFIX = 128, b"DICM"
_META_GROUP, _FIRST_GROUP = 0x0002, 0x0008
_ELEMENTS = 4
"""Number of elements at the beginning of a file without a preamble that are checked."""
_MAX_LENGTH = 1024
"""Max length of these elements' values in bytes: they are character sets, types of image, UIDs and dates."""
_SHORT_VRS = (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"PN", b"SH", b"TM", b"UI", b"UL", b"US")
_LONG_VRS = (b"OB", b"UC", b"UR", b"UT", b"UN")


def is_dicom(file: Path) -> bool:
    """Returns whether a file begins like a DICOM file: with a preamble, or with DICOM's first elements.

    Old archives and some exports write data sets without a preamble. Such a file is accepted if it begins with four elements
    of the file meta group or group 0008, in order and with plausible lengths.

    Raises:
        OSError: the file cannot be read.
    """
    if file.exists() and not file.is_file():  # reading a pipe or a device might never end
        return False
    with file.open("rb") as stream:
        begin = stream.read(_ELEMENTS * (_MAX_LENGTH + 12))
    return begin[_PREAMBLE : _PREAMBLE + len(_PREFIX)] == _PREFIX or _begins_with_elements(begin)


def has_preamble(file: Path) -> bool:
    """Returns whether a file has DICOM's preamble and prefix.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        return stream.read(_PREAMBLE + len(_PREFIX))[_PREAMBLE:] == _PREFIX


def _begins_with_elements(begin: bytes) -> bool:
    at, last = 0, (0, 0)
    for _ in range(_ELEMENTS):
        if len(begin) < at + 12:
            return False
        tag = struct.unpack_from("<HH", begin, at)
        if tag[0] not in (_META_GROUP, _FIRST_GROUP) or tag <= last:
            return False
        vr = begin[at + 4 : at + 6]
        if vr in _SHORT_VRS:
            head, (length,) = 8, struct.unpack_from("<H", begin, at + 6)
        elif vr in _LONG_VRS:
            head, (length,) = 12, struct.unpack_from("<I", begin, at + 8)
        else:
            head, (length,) = 8, struct.unpack_from("<I", begin, at + 4)
        if length > _MAX_LENGTH:
            return False
        at, last = at + head + length, tag
    return True
