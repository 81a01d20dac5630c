"""What the header of an image file says, once it is known to be sane: checked before any library opens the file.

A header is text or a few bytes that another program wrote. ITK's readers follow paths that it names, crash on some
malformed ones and allocate whatever it claims. So each format's header is read here first, strictly, by a few lines of
Python, and only files that hold their own voxels, of a size within the limits, go on to a reader process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from medsam2_atlas.errors import InputError

MAX_HEADER_BYTES = 1 << 20
MAX_DIMENSIONS = 5


@dataclass(frozen=True)
class Header:
    """An image file's header.

    Attributes:
        sizes: number of values along each of the file's axes, in the file's order; axes of components included.
        value_bytes: bytes of one value.
        offset: where the voxels begin, in bytes: of the file, or of what a gzip file unpacks to.
        encoding: `raw`, `gzip`, `zlib`, `bzip2` or `text`.
        whole_file_packed: whether the header is packed along with the voxels, as in `.nii.gz`.
    """

    sizes: tuple[int, ...]
    value_bytes: int
    offset: int
    encoding: str
    whole_file_packed: bool = False

    @property
    def values(self) -> int:
        """Number of values."""
        return prod(self.sizes)

    @property
    def data_bytes(self) -> int:
        """Bytes of the voxels once they are unpacked."""
        return self.values * self.value_bytes


def broken(file: Path, problem: str) -> InputError:
    """The error of a header that cannot be used."""
    return InputError(file, f"cannot be read as an image: {problem}.", "Export the image again from its source.")


def elsewhere(file: Path) -> InputError:
    """The error of a header that names other files."""
    return InputError(
        file,
        "keeps its voxels in another file, which its header names.",
        "Save the image as one file: NIfTI, or NRRD or MHA with the voxels inside.",
    )


def text_lines(file: Path, content: bytes) -> list[str]:
    """The lines of a text header. Bare carriage returns and control characters are refused: readers disagree on them.

    Raises:
        InputError: bytes that are no text, or a line of more than 32,768 characters.
    """
    text = content.replace(b"\r\n", b"\n").decode("utf-8", errors="replace")
    if any(ord(c) < 32 and c not in "\n\t" for c in text):
        raise broken(file, "it holds control characters")
    lines = text.split("\n")
    if max(map(len, lines)) > 1 << 15:
        raise broken(file, "it has a line without end")
    return lines


def whole_numbers(file: Path, what: str, text: str, count: int | None = None) -> tuple[int, ...]:
    """Whole numbers that are separated by blanks.

    Raises:
        InputError: something else, or another number of them than `count`.
    """
    words = text.split()
    try:
        numbers = tuple(int(word) for word in words if len(word) < 20)
    except ValueError as error:
        raise broken(file, f"its {what} is {text[:40]!r}") from error
    if len(numbers) != len(words) or (count is not None and len(numbers) != count):
        raise broken(file, f"its {what} is {text[:40]!r}")
    return numbers


def checked_sizes(file: Path, sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes, if an image can have them.

    Raises:
        InputError: none, more than `MAX_DIMENSIONS`, or sizes below 1.
    """
    if not 1 <= len(sizes) <= MAX_DIMENSIONS or min(sizes) < 1:
        raise broken(file, f"its size is {tuple(sizes)[:8]}")
    return tuple(sizes)
