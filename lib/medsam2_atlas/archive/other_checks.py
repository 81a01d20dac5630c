"""Checks the files of studies other than images and label maps: databases, atlas, weights, reports, plans."""

from __future__ import annotations

import json
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from medsam2_atlas.archive.databases import connected, database_problem
from medsam2_atlas.archive.findings import FROM_BACKUP, Finding
from medsam2_atlas.archive.listing import Listing, lineages
from medsam2_atlas.archive.place import Place
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.base.files import text_of
from medsam2_atlas.imaging.kinds import suffix_in
from medsam2_atlas.storage import WORK_FOLDER, Lineage
from medsam2_atlas.storage.drafts import draft_problem
from medsam2_atlas.storage.folder import DRAFTS

_MAX_JSON_BYTES = 1 << 28
_UNETS = ("unet_2d", "unet_3d")


def other_findings(place: Place, listing: Listing) -> list[Finding]:
    """Returns the problems of files other than label maps and images."""
    found = [finding for path in listing.items for finding in _content(place, path)]
    broken = {finding.path for finding in found}
    found += _atlas(place, broken)
    for name in _UNETS:
        file = place.work / name / "best.pt"
        if file.is_file() and place.relative(file) not in broken:
            found += _loaded(place, file, _load_unet)
    found += _reports(place, listing, broken)
    return [*found, *_drafts(place, listing), *_plans(place), *_indexes(place)]


def image_index(place: Place) -> dict[str, tuple[str, str]]:
    """Returns the stamp and SHA-256 of images as recorded in the index, by path."""
    found: dict[str, tuple[str, str]] = {}
    for file in _index_files(place):
        try:
            with closing(connected(file)) as database:
                rows = database.execute(
                    "SELECT file, stamp, sha256 FROM images WHERE sha256 != '' AND hashed = stamp"
                ).fetchall()
        except sqlite3.Error:  # the program recreates the index
            continue
        found |= {place.relative(place.studies / str(name)): (str(known), str(checksum)) for name, known, checksum in rows}
    return found


def _content(place: Place, path: str) -> Iterator[Finding]:
    """Yields a finding if a file of the work folder violates its own format."""
    file = place.root / path
    if not any(work in file.parents for work in (place.work, place.studies / WORK_FOLDER)):
        return
    if (place.pacs and path.startswith(("series/", "store/labels/"))) or place.versions in file.parents:
        return
    problem = ""
    try:
        if file.suffix == ".json":
            problem = _json_problem(file)
        elif file.suffix in (".npz", ".pt"):
            with zipfile.ZipFile(file) as archive:
                broken = archive.testzip()
            problem = f"is damaged: the checksum of its part {broken} is wrong." if broken else ""
        elif file.suffix == ".sqlite":
            wrong = database_problem(file)
            problem = f"is damaged: {wrong}." if wrong else ""
    except FileNotFoundError:
        return
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        problem = f"cannot be read ({error})."
    if problem:
        yield Finding(path, problem, FROM_BACKUP)


def _json_problem(file: Path) -> str:
    if file.stat().st_size > _MAX_JSON_BYTES:
        return f"has more than {_MAX_JSON_BYTES} bytes, which is too large for such a file."
    try:
        json.loads(text_of(file))
    except (ValueError, RecursionError) as error:
        return f"is not readable JSON ({error})."
    return ""


def _atlas(place: Place, broken: set[str]) -> Iterator[Finding]:
    """Yields versions of the grown atlas that cannot be loaded, or whose content does not match their name."""
    folder = place.work / "atlas"
    versions = sorted(file.parent for file in (folder / "versions").glob("*/atlas.json"))
    for version in versions:
        if not any(path.startswith(f"{place.relative(version)}/") for path in broken):
            yield from _loaded(place, version, _load_atlas)
    current = folder / "current"
    if current.is_file():
        name = current.read_text(encoding="utf-8", errors="replace").strip()
        if name not in {version.name for version in versions}:
            remedy = f"{FROM_BACKUP} Or let the atlas grow again: medsam2-atlas atlas grow."
            yield Finding(place.relative(current), f"names the version {name[:80]!r}, which is missing.", remedy)


def _load_atlas(folder: Path) -> str:
    from medsam2_atlas.atlas import Atlas

    recorded = str(json.loads(text_of(folder / "atlas.json")).get("version", ""))
    version = Atlas.load(folder).version
    return "" if recorded in ("", version) else f"contains the atlas {version}, but was saved as {recorded}."


def _load_unet(file: Path) -> str:
    from medsam2_atlas.unet import load_unet

    load_unet(file)
    return ""


def _loaded(place: Place, path: Path, load: Callable[[Path], str]) -> Iterator[Finding]:
    try:
        problem = load(path)
    except (MedSAM2AtlasError, OSError, ValueError) as error:
        problem = f"cannot be loaded ({getattr(error, 'problem', error)})."
    if problem and path.exists():
        yield Finding(place.relative(path), problem, FROM_BACKUP)


def _reports(place: Place, listing: Listing, broken: set[str]) -> Iterator[Finding]:
    """Yields reports whose predictions are missing."""
    folder = place.work / "reports"
    folders = {key: place.versions / key[0] / key[1] for key in lineages(listing.items, place)}
    for file in sorted(folder.glob("*/*.json")):
        if place.relative(file) in broken:
            continue
        key = (file.parent.name, file.stem)
        try:
            content = json.loads(text_of(file))
            checksum = content.get("label_sha256") if isinstance(content, dict) else None
        except (OSError, ValueError):
            continue
        versions = Lineage(folders[key]).readable() if key in folders else []
        if checksum not in [version.sha256 for version in versions]:
            yield Finding(place.relative(file), "is the report of a label map that is missing.", lost=False)


def _drafts(place: Place, listing: Listing) -> Iterator[Finding]:
    """Yields drafts that cannot be read, and drafts of studies that have no image."""
    start = f"{place.relative(place.studies / WORK_FOLDER / DRAFTS)}/"
    images = [place.root / path for path, item in listing.items.items() if item.kind == "image"]
    studies = {file.name[: -len(suffix_in(file.name))] for file in images if file.parent == place.studies}
    for path in sorted(path for path in listing.items if path.startswith(start)):
        problem, study = draft_problem(place.root / path), path[len(start) :].rpartition("/")[0]
        if problem:
            yield Finding(path, problem, FROM_BACKUP)
        elif study not in studies:
            remedy = "Restore the image, or remove the draft."
            yield Finding(path, "is the draft of a study that has no image.", remedy, lost=False)


def _plans(place: Place) -> Iterator[Finding]:
    """Yields interrupted removals of images, and unreadable files that were moved away."""
    work = place.studies / WORK_FOLDER
    for plan in sorted((work / "removed").glob("*/removal.json")):
        remedy = "The server, or any command that opens the folder, completes it."
        yield Finding(place.relative(plan), "is an interrupted removal of an image.", remedy, lost=False)
    for file in sorted((work / "unreadable").glob("*")):
        remedy = "Check it, and remove it if it is not needed."
        yield Finding(
            place.relative(file), "could not be read, and was moved away when another file replaced it.", remedy, lost=False
        )


def _indexes(place: Place) -> Iterator[Finding]:
    for file in _index_files(place):
        problem = database_problem(file)
        if problem:
            yield Finding(
                place.relative(file), f"is damaged: {problem}.", "The program recreates it from the files.", lost=False
            )


def _index_files(place: Place) -> list[Path]:
    return sorted((place.studies / WORK_FOLDER).glob("studies*.sqlite"))
