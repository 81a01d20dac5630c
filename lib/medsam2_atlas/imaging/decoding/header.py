"""Headers of image files, which are checked before any library opens the file.

ITK's readers follow paths in a header, crash on some malformed headers and allocate the size that a header claims. Therefore a
strict parser in Python reads each format's header first. A reader process only gets files that contain their own voxels, in a
size within the limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, prod
from pathlib import Path

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding.grids import Grid

MAX_HEADER_BYTES = 1 << 20
MAX_DIMENSIONS = 5


@dataclass(frozen=True)
class Header:
    """The checked header of an image file.

    Attributes:
        sizes: number of values along each of the file's axes, in the file's order, including axes of components.
        value_bytes: bytes per value.
        offset: first byte of the voxels, in the file or, for a packed file, in its unpacked content.
        encoding: `raw`, `gzip`, `zlib` or `text`.
        whole_file_packed: whether the header is packed together with the voxels, as in `.nii.gz`.
        canonical: a new text header, written from the parsed values without the grid; empty for binary headers. ITK gets this
            header, so that it never parses a text differently from this parser.
        axes: number of voxels along each axis of the image, without components and without axes of size 1 beyond the third.
        component_kind: kind of a voxel's values if there are several and the file names it: `rgb-color`, `complex`, `list`.
        grid: the grid, if the image has three axes.
        remarks: unusual properties of the file other than its grid; sentences for people.
        segments: the entries about 3D Slicer's segments, by key; only for NRRD. See `segments`.
    """

    sizes: tuple[int, ...]
    value_bytes: int
    offset: int
    encoding: str
    whole_file_packed: bool = False
    canonical: bytes = b""
    axes: tuple[int, ...] = ()
    component_kind: str = ""
    grid: Grid | None = None
    remarks: tuple[str, ...] = ()
    segments: Mapping[str, str] = field(default_factory=dict)

    @property
    def values(self) -> int:
        """The number of values."""
        return prod(self.sizes)

    @property
    def components(self) -> int:
        """The number of values per voxel."""
        return self.values // prod(self.axes)

    @property
    def data_bytes(self) -> int:
        """The number of bytes of the unpacked voxels."""
        return self.values * self.value_bytes


def broken(file: Path, problem: str) -> InputError:
    """Returns the error for a header that cannot be used."""
    return InputError(file, f"cannot be read as an image: {problem}.", "Export the image again from its source.")


def not_a(file: Path, kind: str, start: bytes) -> InputError:
    """Returns the error for a file whose content does not match its suffix; it names the real kind if that is known.

    Args:
        file: the file, for the message.
        kind: the kind of file that the suffix stands for, with its article.
        start: the first bytes of the file.
    """
    kinds = {b"NRRD": "an NRRD file", b"PK\x03\x04": "a ZIP archive", b"ObjectType": "a MetaImage file", b"\x1f\x8b": "packed"}
    found = next((known for begin, known in kinds.items() if start.startswith(begin)), "")
    found = "a DICOM file" if start[128:132] == b"DICM" else "a NIfTI file" if start[344:348] == b"n+1\0" else found
    if not found:
        return broken(file, f"it is not {kind}")
    return broken(file, f"it is {found}, not {kind} as its suffix says")


def grey_values(file: Path | str, count: int, kind: str = "") -> None:
    """Checks that an image has one real number per voxel.

    Args:
        file: the image, for the message.
        count: number of values per voxel.
        kind: kind of the values, if a voxel has several: `rgb-color`, `complex`, or any other.

    Raises:
        InputError: the image has several values per voxel, or complex numbers.
    """
    if kind.startswith("complex"):
        raise InputError(file, "contains complex numbers.", "A CT has real numbers; export it as grey values.")
    if "color" in kind:
        raise InputError(file, "contains colours (RGB), such as a screenshot.", "Export the CT itself, as grey values.")
    if count != 1:
        raise InputError(
            file,
            f"contains {count} values per voxel, such as layers of segments.",
            "A CT or label map has one; export it as grey values, or as one label map.",
        )


def detached_header(file: Path) -> InputError:
    """Returns the error for a detached header, which names another file with the voxels."""
    return InputError(
        file,
        "has its voxels in another file, which its header names.",
        "Save the image as one file: NIfTI, or NRRD or MHA with the voxels inside.",
    )


def text_lines(file: Path, content: bytes) -> list[str]:
    """Returns the lines of a text header. Bare carriage returns and control characters are refused: parsers disagree on them.

    Raises:
        InputError: the header contains such characters.
    """
    text = content.replace(b"\r\n", b"\n").decode("utf-8", errors="replace")
    if any(ord(c) < 32 and c not in "\n\t" for c in text):
        raise broken(file, "its header contains control characters")
    return text.split("\n")


def whole_numbers(file: Path, what: str, text: str, count: int | None = None) -> tuple[int, ...]:
    """Returns the whole numbers in a text, which blanks separate.

    Args:
        file: the file, for the message.
        what: name of the header's field, for the message.
        text: the value of the field.
        count: the expected number of values; any number if None.

    Raises:
        InputError: the values are not whole numbers, or their number is not `count`.
    """
    words = text.split()
    try:
        numbers = tuple(int(word) for word in words if len(word) < 20)
    except ValueError as error:
        raise broken(file, f"its {what} is {text[:40]!r}") from error
    if len(numbers) != len(words) or (count is not None and len(numbers) != count):
        raise broken(file, f"its {what} is {text[:40]!r}")
    return numbers


def decimals(file: Path, what: str, text: str, count: int) -> list[float]:
    """Returns the numbers in a text, which blanks separate.

    Args:
        file: the file, for the message.
        what: name of the header's field, for the message.
        text: the value of the field.
        count: the expected number of values.

    Raises:
        InputError: the text does not contain exactly `count` finite numbers.
    """
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError as error:
        raise broken(file, f"its {what} is {text[:40]!r}") from error
    if len(numbers) != count or not all(map(isfinite, numbers)):
        raise broken(file, f"its {what} is {text[:40]!r}")
    return numbers


def image_axes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Returns the sizes of an image without final axes of size 1 after the third axis: a single time point is not an axis.

    >>> image_axes([512, 512, 200, 1])
    (512, 512, 200)
    """
    sizes = list(sizes)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def checked_sizes(file: Path, sizes: Sequence[int]) -> tuple[int, ...]:
    """Returns the sizes if they are valid for an image.

    Raises:
        InputError: there are no sizes, more than `MAX_DIMENSIONS`, or sizes below 1.
    """
    if not 1 <= len(sizes) <= MAX_DIMENSIONS or min(sizes) < 1:
        raise broken(file, f"its size is {tuple(sizes)[:8]}")
    return tuple(sizes)
