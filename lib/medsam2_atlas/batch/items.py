"""The inputs of a batch: one item for each CT, wherever it lies, and what identifies it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medsam2_atlas.base.files import stream_sha256
from medsam2_atlas.imaging.decoding import file_states

Kind = Literal["file", "series", "dicomweb"]
"""`file`: an image file. `series`: a folder of DICOM files. `dicomweb`: a series of a PACS."""


@dataclass(frozen=True)
class Item:
    """One CT of a batch.

    Attributes:
        id: identifies the CT in its source: a path relative to the folder, a row of a table, or a Series Instance UID.
        kind: see `Kind`.
        path: the file or folder; the URL of the PACS for `dicomweb`.
        name: the name of the outputs; empty until `names.Names` gives it one.
        stamp: changes with the CT: sizes and times of its files, or the number of a series' instances.
        study: Study Instance UID, for `dicomweb` only.
        series: Series Instance UID, for `dicomweb` only.
        wished: the name of the outputs that a table asks for; empty if it asks for none.
    """

    id: str
    kind: Kind
    path: str
    name: str = ""
    stamp: str = ""
    study: str = ""
    series: str = ""
    wished: str = ""


def stamp_of(item: Item) -> str:
    """Returns the stamp of an item. For files, their states are read; the voxels are not.

    Raises:
        InputError: a folder has too many files or levels.
        OSError: a file cannot be read.
    """
    if item.kind == "dicomweb":
        return item.stamp
    return hashlib.sha256(repr(file_states(Path(item.path))).encode()).hexdigest()[:20]


def content_sha256(path: Path) -> str:
    """Returns the SHA-256 of an image file, or of the names and checksums of the files of a DICOM folder.

    Raises:
        InputError: a folder has too many files or levels.
        OSError: a file cannot be read.
    """
    if not path.is_dir():
        with path.open("rb") as stream:
            return stream_sha256(stream)
    digest = hashlib.sha256()
    for name, size, _ in file_states(path):
        if not (path / name).is_file():
            continue
        with (path / name).open("rb") as stream:
            digest.update(f"{name}\0{size}\0{stream_sha256(stream)}\n".encode())
    return digest.hexdigest()
