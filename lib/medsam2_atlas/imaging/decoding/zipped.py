"""Unpacks ZIP archives from outside. Only reader processes use this module, so a hostile archive can only end its reader.

Names in the archive never become paths: entries get numbers as names. The limits hold for the bytes that are really unpacked,
not for those that the archive claims. Archives within the archive stay packed.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from medsam2_atlas.base.errors import InputError

_BLOCK = 1 << 20
_NAME = 200


def unzip(path: str, folder: str, max_bytes: int, max_files: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Unpacks the files of a ZIP archive into a folder.

    Args:
        path: the archive.
        folder: an existing, empty folder, in which the files get the names `00000`, `00001` and so on.
        max_bytes: max number of bytes of all files together.
        max_files: max number of files.

    Returns:
        A dictionary with `names`, the last parts of the files' names in the archive, in the order of their numbers; and an
        empty list of arrays.

    Raises:
        InputError: the file is not a ZIP archive, is damaged or encrypted, or exceeds a limit.
        OSError: a file cannot be written.
    """
    names: list[str] = []
    left = max_bytes
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > max_files:
                raise InputError(path, f"contains more than {max_files} files.", "Send the slices of one CT at once.")
            for entry in entries:
                with archive.open(entry) as source, Path(folder, f"{len(names):05d}").open("xb") as target:
                    for block in _blocks(source):
                        left -= len(block)
                        if left < 0:
                            problem = f"unpacks to more than {max_bytes / 1e6:.0f} MB."
                            raise InputError(path, problem, "Send fewer files at once.")
                        target.write(block)
                names.append(entry.filename.replace("\\", "/").rpartition("/")[2][-_NAME:])
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, UnicodeError) as error:
        problem = f"cannot be unpacked ({str(error)[:200]})."
        raise InputError(path, problem, "Pack it again as ZIP, without a password.") from error
    return {"names": names}, []


def _blocks(source: IO[bytes]) -> Iterator[bytes]:
    """Yields the content of an entry. Wrong data of bzip2 is an `OSError` without a number, unlike errors of the disk."""
    try:
        while block := source.read(_BLOCK):
            yield block
    except (OSError, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise zipfile.BadZipFile(str(error)) from error
