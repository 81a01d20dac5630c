"""Finds the stored data of a study: its files and folders, the checksums of its images, and data that only people can erase.

Files are found by the study's name on disk, not by the index, because an unusable or removed image has files too. Links are
never followed out of the studies folder: a link is erased, and its target is reported.
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
from medsam2_atlas.storage.folder import DRAFTS
from medsam2_atlas.storage.links import ROOTS_ENVIRONMENT

_ROOTS = f"Name the folder in ${ROOTS_ENVIRONMENT} and erase the study again, or search the folder yourself."


@dataclass
class Belongings:
    """The stored data of a study.

    Attributes:
        paths: files, links and folders that belong to this study only.
        shared: caches whose entries cannot be assigned to studies, so they are emptied completely.
        checksums: the SHA-256 of its current and previous images.
        segmentations: the series and instance UIDs of label maps that were sent to the PACS.
        final: whether it was ever signed off, so that models may have learnt from it.
        not_erased: sentences about data that is not erased, with the remedy.
    """

    paths: list[Path] = field(default_factory=list)
    shared: list[Path] = field(default_factory=list)
    checksums: set[str] = field(default_factory=set)
    segmentations: set[tuple[str, str]] = field(default_factory=set)
    final: bool = False
    not_erased: list[str] = field(default_factory=list)


def check_name(study: str) -> str:
    """Returns a study's name unchanged if it is a single file name.

    Raises:
        InputError: the text is not a single file name.
    """
    if not study or study in (".", "..") or "/" in study or "\0" in study:
        raise InputError(repr(study[:80]), "is not the name of a study.", "Name one study, without folders or suffix.")
    return study


def studies_of(place: Place) -> list[str]:
    """Returns the names of all studies with an image file, including unusable ones."""
    return [stem for file in _listed(place.studies) if (stem := _stem(file))]


def find_belongings(place: Place, study: str) -> Belongings:
    """Finds the stored data of a study; `paths` is empty if there is none.

    Raises:
        OSError, StorageError: a folder cannot be listed.
    """
    found = Belongings()
    store = place.studies / WORK_FOLDER
    images = [file for file in _listed(place.studies) if _stem(file) == study]
    for file in images:
        with suppress(OSError), opened(file, follow=True) as stream:
            found.checksums.add(stream_sha256(stream))
    for tag in _listed(place.studies / "labels"):
        if tag.is_dir() and not place.roots.contain(tag):
            found.not_erased.append(f"{tag} is a link to {os.path.realpath(tag)}, which is not searched. {_ROOTS}")
    labels = [file for tag in _folders(place, place.studies / "labels") for file in _listed(tag) if _stem(file, True) == study]
    versions = [tag / study for tag in _folders(place, store / "versions") if _exists(tag / study)]
    removed = [folder for folder in _folders(place, store / "removed") if _removed(folder, study)]
    for folder in (*versions, *removed):
        _read_records(folder, found)
    found.final |= any(file.parent.name == FINAL for file in labels) or any(folder.parent.name == FINAL for folder in versions)
    found.final |= any((folder / "versions" / FINAL / study).is_dir() for folder in removed)
    paths = [*images, *labels, *versions, *removed, store / "images" / f"{study}.json", store / "unreadable" / study]
    paths.append(store / DRAFTS / study)
    paths += [folder / f"{study}.json" for folder in _folders(place, place.work / "reports")]
    paths += [store / "fingerprints" / f"{checksum}.json" for checksum in sorted(found.checksums)]
    if place.pacs:
        paths += [place.work / "series" / uid_folder_name(study), place.work / "series" / study]
    found.paths = [path for path in paths if _exists(path)]
    for path in found.paths:
        if path.is_symlink():
            found.not_erased.append(
                f"{path.name} was a link: its target {os.path.realpath(path)} is not erased. Remove it yourself."
            )
    found.shared = [path for path in _shared(place) if _exists(path)]
    found.not_erased += [text for text in _foreign(place, study, {*images}) if text]
    return found


def _shared(place: Place) -> Iterator[Path]:
    """Yields caches whose files are named by digests, so that the files of one study cannot be found."""
    store = place.studies / WORK_FOLDER
    yield store / "pictures"
    yield place.work / "registrations"
    for folder in _listed(place.work):
        yield folder / "cache"  # training cases of the U-Nets
    for folder in {place.work, store}:
        yield from (file for file in _listed(folder) if file.name.endswith(".damaged"))


def _foreign(place: Place, study: str, images: set[Path]) -> Iterator[str]:
    """Yields sentences about files that belong to other programs, or that cannot be assigned to studies."""
    for file in _listed(place.studies):
        another = bool(_stem(file)) and file.is_file()  # the image of another study whose name has the same beginning
        if file in images or another or file.name == WORK_FOLDER:
            continue
        if file.name == study or file.name.startswith(f"{study}."):
            yield f"{file} is not a study of this program and is not erased. Remove it yourself if it belongs to the patient."
    flat = [file for file in _listed(place.studies / WORK_FOLDER / "unreadable") if not file.is_dir()]
    if flat:
        yield f"{flat[0].parent} contains {len(flat)} unnamed files, which earlier releases moved there. Check them."


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
    """Returns whether a folder of a removed image belongs to the study."""
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
    """Returns the study in a file's name; empty if the name does not end in the suffix of an image or label file."""
    suffix = suffix_in(file.name, labels=labels)
    return file.name[: -len(suffix)] if suffix else ""


def _folders(place: Place, folder: Path) -> Iterable[Path]:
    """Returns the folders in a folder, except links that lead out of the place."""
    return [path for path in _listed(folder) if path.is_dir() and place.roots.contain(path)]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise StorageError(folder, "cannot be listed (Permission denied).", "Run this as the server's user.") from error


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()
