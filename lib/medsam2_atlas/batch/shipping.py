"""The model files of a batch on the machines of a cluster: used where they are, or sent once to each machine.

A worker uses a file at the client's path if its checksum is the same, as on a shared disk. Otherwise it looks for a file that
is named by that checksum in its own cache, and asks the client for it if there is none. Files are sent in pieces, so neither
client nor scheduler holds a whole file in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.files import replacing, sha256
from medsam2_atlas.base.resource import state_folder
from medsam2_atlas.batch.job import Job, ModelFile
from medsam2_atlas.batch.session import Session
from medsam2_atlas.medsam2 import find_checkpoint
from medsam2_atlas.segmenters.places import find_atlas, find_unet
from medsam2_atlas.segmenters.registry import family_of, trainable

PIECE_BYTES = 8_000_000


def with_files(session: Session) -> Job:
    """Returns the job of a session with the paths and checksums of all files that its models are made of.

    Raises:
        AtlasError, WeightsError: a file is missing.
        OSError: a file cannot be read.
    """
    job, conf = session.job, dict(session.job.conf)
    if not job.source:
        conf |= _default_places(session)
    files: list[ModelFile] = []
    for key, text in sorted(conf.items()):
        path = Path(text)
        if key == "device" or not path.exists():  # a name, such as that of a configuration
            continue
        conf[key] = str(path.resolve())
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in found:
            if file.is_file():
                name = file.relative_to(path).as_posix() if path.is_dir() else ""
                files.append(ModelFile(key, name, str(file.resolve()), sha256(file), file.stat().st_size))
    return replace(job, conf=conf, files=tuple(files))


def _default_places(session: Session) -> dict[str, str]:
    """Returns the paths that the client finds by default; other machines may have other defaults."""
    job, conf = session.job, session.job.conf
    prompted = family_of(job.segmenter).role == "prompted"
    found: dict[str, Path] = {}
    if prompted:
        found["atlas"] = find_atlas(Path(conf["atlas"]) if "atlas" in conf else None)
        if session.segmenter.uses_network:
            found["checkpoint"] = find_checkpoint(Path(conf["checkpoint"]) if "checkpoint" in conf else None)
    for name in trainable():
        if name == job.segmenter or job.options.prompts in (name, "unet", "both"):
            found[name] = find_unet(name, Path(conf[name]) if name in conf else None)
    return {key: str(path) for key, path in found.items()}


def placed(job: Job) -> tuple[Job, tuple[str, ...]]:
    """Returns the job with the paths of its files on this machine, and the checksums of files that are missing here."""
    conf, missing = dict(job.conf), list[str]()
    for key in dict.fromkeys(file.key for file in job.files):
        files = [file for file in job.files if file.key == key]
        if all(_is_same(file.path, file.sha256, file.bytes) for file in files):
            continue
        lacking = [file.sha256 for file in files if not _cached(file.sha256).is_file()]
        missing += lacking
        if not lacking:
            conf[key] = str(_assembled(files))
    return replace(job, conf=conf), tuple(missing)


@lru_cache(maxsize=4096)
def _is_same(path: str, digest: str, size: int) -> bool:
    file = Path(path)
    try:
        return file.stat().st_size == size and sha256(file) == digest
    except OSError:
        return False


def _cache() -> Path:
    return state_folder() / "batch" / "files"


def _cached(digest: str) -> Path:
    return _cache() / digest


def _assembled(files: Sequence[ModelFile]) -> Path:
    """Returns a file or a folder made of links to cached files."""
    only = files[0]
    if not only.name:
        target = _cache() / f"{only.sha256}{''.join(Path(only.path).suffixes[-2:])}"
        if not target.exists():
            with replacing(target) as part:
                os.link(_cached(only.sha256), part)
        return target
    digest = hashlib.sha256(repr([(file.name, file.sha256) for file in files]).encode()).hexdigest()
    folder = _cache() / f"folder-{digest[:32]}"
    if not folder.is_dir():
        with replacing(folder) as part:
            for file in files:
                inside = part / file.name
                if ".." in Path(file.name).parts or Path(file.name).is_absolute():
                    raise StorageError(file.name, "is no name below a folder.", "Rename the file.")
                inside.parent.mkdir(parents=True, exist_ok=True)
                os.link(_cached(file.sha256), inside)
    return folder


def receive(digest: str, offset: int, piece: bytes, last: bool, sender: str) -> None:
    """Writes a piece of a file into this machine's cache; the last piece completes the file if its checksum is right.

    Args:
        digest: SHA-256 of the whole file.
        offset: position of the piece, in bytes.
        piece: the content.
        last: whether it is the last piece.
        sender: a name of this transfer, so that two transfers do not mix.

    Raises:
        StorageError: the checksum is wrong.
        OSError: the disk cannot be written.
    """
    if not all(text.isalnum() for text in (digest, sender)):
        raise StorageError(digest, "is no checksum.", "Use the same version on all machines.")
    folder = _cache()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = folder / f".{digest}-{sender}"
    with part.open("r+b" if offset else "wb") as stream:
        stream.seek(offset)
        stream.write(piece)
    if last:
        if sha256(part) != digest:
            part.unlink(missing_ok=True)
            raise StorageError(_cached(digest), "was damaged on its way.", "Run the batch again.")
        os.replace(part, _cached(digest))


def pieces(file: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Yields offset, content and whether it is the last one, for each piece of a file."""
    size, offset = file.stat().st_size, 0
    with file.open("rb") as stream:
        while True:
            piece = stream.read(PIECE_BYTES)
            yield offset, piece, offset + len(piece) >= size
            offset += len(piece)
            if offset >= size or not piece:
                return
