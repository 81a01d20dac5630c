"""A CT that was read, and perhaps registered. It is stored in the folder for parts if another worker goes on with it.

So a case of which one worker registers the CT and another one runs the network is fetched, decoded and hashed once. The voxels
are stored as they are, which a shared disk reads faster than a compressed file or a series is decoded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from medsam2_atlas.base.files import remove_folder
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.job import Job
from medsam2_atlas.imaging.volume import Geometry, Volume

log = logging.getLogger(__name__)

_VOXELS, _ABOUT, _SERIES = "voxels.npy", "about.json", "series"
_PREFIX = "prepared-"
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}")
"""Digest of the item's id, and a unique number, as a case may be prepared twice."""


@dataclass
class Prepared:
    """An item whose CT was read, and registered if the segmenter needs that.

    Attributes:
        item: the item.
        path: file or folder of the CT on this machine.
        volume: the CT, `[z, y, x]` in HU.
        input_sha256: SHA-256 of the CT.
        registered: files of its registrations, which are removed when the item is done.
        seconds: wall time of each step so far, in s.
        by: the worker that prepared it, if another one goes on; empty otherwise.
        opened: removes temporary files.
    """

    item: Item
    path: Path
    volume: Volume
    input_sha256: str
    registered: tuple[Path, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    by: str = ""
    opened: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Removes temporary files."""
        self.opened.close()


def keep(prepared: Prepared, job: Job) -> str:
    """Stores a prepared CT in the folder for parts; returns its name there.

    Args:
        prepared: the prepared CT.
        job: the job; a DICOM segmentation also needs the slices of a series that came from a PACS.

    Raises:
        OSError: the disk cannot be written.
    """
    began, name, volume = time.perf_counter(), f"{_digest(prepared.item)}-{uuid.uuid4().hex}", prepared.volume
    folder = _folder(name, job.parts)
    folder.mkdir(mode=0o700)
    try:
        np.save(folder / _VOXELS, volume.array, allow_pickle=False)
        if prepared.item.kind == "dicomweb" and job.suffix == ".dcm":
            shutil.copytree(prepared.path, folder / _SERIES)
        stored = time.perf_counter() - began
        about = {
            "geometry": asdict(volume.geometry),
            "file_geometry": asdict(volume.file_geometry),
            "source": volume.source,
            "hu": None if volume.hu is None else dict(volume.hu),
            "remarks": volume.remarks,
            "sha256": prepared.input_sha256,
            "registered": [file.relative_to(job.parts).as_posix() for file in prepared.registered],
            "seconds": {step: value + stored * (step == "prepare") for step, value in prepared.seconds.items()},
            "by": prepared.by,
        }
        (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
    except BaseException:
        drop(name, job.parts)
        raise
    return name


def take(name: str, item: Item, parts: Path) -> Prepared | None:
    """Returns a stored CT, which is removed when it is closed; None if it is not there, as another worker has used it.

    Args:
        name: its name; empty: there is none.
        item: its item.
        parts: the folder for parts.
    """
    if not name:
        return None
    began, folder = time.perf_counter(), _folder(name, parts)
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        volume = Volume(
            np.load(folder / _VOXELS, allow_pickle=False),
            Geometry.parse(about["geometry"]),
            Geometry.parse(about["file_geometry"]),
            about["source"],
            about["hu"],
            tuple(about["remarks"]),
        )
        registered = tuple(parts / file for file in about["registered"])
        series = folder / _SERIES
        path = series if series.is_dir() else Path(item.path)
        found = Prepared(item, path, volume, about["sha256"], registered, dict(about["seconds"]), about["by"])
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        log.info("%s is prepared again: %s", item.id, error)
        return None
    found.seconds["segment"] = time.perf_counter() - began
    found.opened.callback(drop, name, parts)
    return found


def drop(name: str, parts: Path) -> None:
    """Removes a stored CT, if there is one.

    Args:
        name: its name; empty: there is none.
        parts: the folder for parts.
    """
    if not name:
        return
    with suppress(OSError):  # another worker that does the same case may remove it at the same time
        remove_folder(_folder(name, parts), parts)


def drop_all(item: Item, parts: Path) -> None:
    """Removes all stored CTs of an item whose case has ended, also those whose names were lost with a worker or a scheduler.

    Args:
        item: the item.
        parts: the folder for parts.
    """
    for folder in parts.glob(f"{_PREFIX}{_digest(item)}-*"):
        drop(folder.name.removeprefix(_PREFIX), parts)


def _digest(item: Item) -> str:
    return hashlib.sha256(item.id.encode(errors="surrogateescape")).hexdigest()[:16]


def _folder(name: str, parts: Path) -> Path:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a prepared CT")
    return parts / f"{_PREFIX}{name}"
