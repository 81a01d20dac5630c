"""Finds what is kept of a study: its files and folders, the checksums that lead to others, and what only people can erase.

Files are found by the study's name on disk, not by the index: an image that cannot be used, or was removed long ago, has files
too. Links are never followed out of the studies folder: a link is erased, and its target is told.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsam2_atlas.archive import Place
from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.base.errors import InputError, StorageError
from medsam2_atlas.base.files import opened, stream_sha256, text_of
from medsam2_atlas.dicom.uids import uid_folder_name
from medsam2_atlas.imaging.kinds import suffix_in
from medsam2_atlas.storage import WORK_FOLDER
from medsam2_atlas.storage.links import ROOTS_ENVIRONMENT

_ROOTS = f"Name the folder in ${ROOTS_ENVIRONMENT} and erase the study again, or look there yourself."


@dataclass
class Belongings:
    """What is kept of a study.

    Attributes:
        paths: files, links and folders that are its own.
        shared: caches whose entries cannot be told apart, and which are emptied as a whole.
        checksums: SHA-256 of its images, now and formerly.
        segmentations: series and instance UIDs of label maps that were sent to the PACS.
        final: whether it was ever signed off, so that models may have learnt from it.
        told: what is not erased, and the remedy, as sentences.
    """

    paths: list[Path] = field(default_factory=list)
    shared: list[Path] = field(default_factory=list)
    checksums: set[str] = field(default_factory=set)
    segmentations: set[tuple[str, str]] = field(default_factory=set)
    final: bool = False
    told: list[str] = field(default_factory=list)


def check_name(study: str) -> str:
    """Returns a study's name if it is one file name.

    Raises:
        InputError: it is not.
    """
    if not study or study in (".", "..") or "/" in study or "\0" in study:
        raise InputError(repr(study[:80]), "is no study's name.", "Name one study, without folders or suffix.")
    return study


def studies_of(place: Place) -> list[str]:
    """Returns the names of all studies that have an image file, whether it can be used or not."""
    return [stem for file in _listed(place.studies) if (stem := _stem(file))]


def find_belongings(place: Place, study: str) -> Belongings:
    """Finds what is kept of a study; `paths` is empty if there is nothing.

    Raises:
        OSError: a folder cannot be listed.
    """
    found = Belongings()
    store = place.studies / WORK_FOLDER
    images = [file for file in _listed(place.studies) if _stem(file) == study]
    for file in images:
        with suppress(OSError), opened(file, follow=True) as stream:
            found.checksums.add(stream_sha256(stream))
    for tag in _listed(place.studies / "labels"):
        if tag.is_dir() and not place.roots.hold(tag):
            found.told.append(f"{tag} is a link to {os.path.realpath(tag)}, which is not looked through. {_ROOTS}")
    labels = [file for tag in _folders(place, place.studies / "labels") for file in _listed(tag) if _stem(file, True) == study]
    versions = [tag / study for tag in _folders(place, store / "versions") if _there(tag / study)]
    removed = [folder for folder in _folders(place, store / "removed") if _removed(folder, study)]
    for folder in (*versions, *removed):
        _read_records(folder, found)
    found.final |= any(file.parent.name == FINAL for file in labels) or any(folder.parent.name == FINAL for folder in versions)
    found.final |= any((folder / "versions" / FINAL / study).is_dir() for folder in removed)
    paths = [*images, *labels, *versions, *removed, store / "images" / f"{study}.json", store / "unreadable" / study]
    paths += [folder / f"{study}.json" for folder in _folders(place, place.work / "reports")]
    paths += [store / "fingerprints" / f"{checksum}.json" for checksum in sorted(found.checksums)]
    if place.pacs:
        paths += [place.work / "series" / uid_folder_name(study), place.work / "series" / study]
    found.paths = [path for path in paths if _there(path)]
    for path in found.paths:
        if path.is_symlink():
            found.told.append(f"{path.name} was a link: its target {os.path.realpath(path)} stays. Remove it yourself.")
    found.shared = [path for path in _shared(place) if _there(path)]
    found.told += [text for text in _others(place, study, {*images}) if text]
    return found


def _shared(place: Place) -> Iterator[Path]:
    """Yields caches whose files are named by digests, so that those of one study cannot be found."""
    store = place.studies / WORK_FOLDER
    yield store / "pictures"
    yield place.work / "registrations"
    for folder in _listed(place.work):
        yield folder / "cache"  # of the U-Nets' training cases
    for folder in {place.work, store}:
        yield from (file for file in _listed(folder) if file.name.endswith(".damaged"))


def _others(place: Place, study: str, images: set[Path]) -> Iterator[str]:
    """Yields what is not this program's to erase, or cannot be told apart."""
    for file in _listed(place.studies):
        another = bool(_stem(file)) and file.is_file()  # the image of a study whose name begins alike
        if file in images or another or file.name == WORK_FOLDER:
            continue
        if file.name == study or file.name.startswith(f"{study}."):
            yield f"{file} is no study of this program and stays. Remove it yourself if it is the patient's."
    flat = [file for file in _listed(place.studies / WORK_FOLDER / "unreadable") if not file.is_dir()]
    if flat:
        yield f"{flat[0].parent} holds {len(flat)} files without names, which earlier versions set aside. Look through them."


def _read_records(folder: Path, found: Belongings) -> None:
    for file in folder.rglob("*.json"):
        try:
            record: Any = json.loads(text_of(file))
            checksum, info = record.get("image_sha256"), record.get("info")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(checksum, str) and checksum.isalnum():
            found.checksums.add(checksum)
        sent = info.get("pacs") if isinstance(info, dict) else None
        if isinstance(sent, dict) and sent.get("instance"):
            found.segmentations.add((str(sent.get("series", "")), str(sent["instance"])))


def _removed(folder: Path, study: str) -> bool:
    """Returns whether a folder of a removed image is the study's."""
    if any(_stem(file) == study for file in _listed(folder)) or any((folder / "versions").glob(f"*/{_literal(study)}")):
        return True
    try:
        plan = json.loads(text_of(folder / "removal.json"))
        return any(_stem(Path(old)) == study for old in plan["moves"] if "/" not in old)
    except (OSError, ValueError, KeyError, TypeError):
        return any(_stem(file, True) == study for file in (folder / "labels").glob("*/*"))


def _literal(study: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in study)


def _stem(file: Path, labels: bool = False) -> str:
    """Returns the study that a file's name belongs to; empty if it has no suffix of an image or label file."""
    suffix = suffix_in(file.name, labels=labels)
    return file.name[: -len(suffix)] if suffix else ""


def _folders(place: Place, folder: Path) -> Iterable[Path]:
    """Returns the folders in a folder; without those that links lead out of the place."""
    return [path for path in _listed(folder) if path.is_dir() and place.roots.hold(path)]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise StorageError(folder, "cannot be listed (Permission denied).", "Run this as the server's user.") from error


def _there(path: Path) -> bool:
    return path.exists() or path.is_symlink()
