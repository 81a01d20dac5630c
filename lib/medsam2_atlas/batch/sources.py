"""Finds the CTs of a batch: in a folder, in a table (CSV), or by a query of a PACS (DICOMweb).

Folders, tables and answers of a PACS come from outside. Nothing that they contain becomes a path of an output (see `names`),
and links that lead out of a folder are left out unless the user allows them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import opened
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.batch.config import batch_config
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.pacs import pacs_of
from medsam2_atlas.batch.place import BATCH_FOLDER, OUTPUT_FOLDERS
from medsam2_atlas.batch.table import read_table
from medsam2_atlas.dicom.uids import valid_uid
from medsam2_atlas.imaging.kinds import SEGMENTATION, stem_of, suffix_in
from medsam2_atlas.storage import WORK_FOLDER

_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_MAX_DEPTH = 16
_TOO_DEEP = f"is a folder more than {_MAX_DEPTH} levels below INPUT, and is not searched. Give a folder closer to it as INPUT."
_PROBED = 3
"""Number of files without a suffix that are examined in a folder, to find DICOM files."""
_LINK_REMEDY = "Allow such links by --follow-links, or copy the CT."
_PAGE = 1000
"""Number of series that are requested from a PACS at a time."""


@dataclass
class Found:
    """The items of a source.

    Attributes:
        items: the items, in a stable order.
        left_out: why other inputs cannot be used, by id.
    """

    items: list[Item] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def find_items(source: str, out: Path, *, follow_links: bool = False) -> Found:
    """Returns the CTs of a source, without names and stamps.

    Args:
        source: a folder, a CSV file with a column `image`, or the URL of a PACS, with filters of QIDO-RS after `?`.
        out: the folder of the outputs, which is not searched.
        follow_links: whether links may lead out of the folder.

    Raises:
        InputError: the source cannot be read, has no CT, or has too many.
        UnavailableError: the PACS does not answer.
    """
    found = Found()
    if is_url(source):
        found = _of_pacs(source)
    elif Path(source).is_dir():
        found = _of_folder(Path(source).absolute(), out, follow_links)
    elif Path(source).is_file() and source.lower().endswith(".csv"):
        found.items, found.left_out = read_table(Path(source).absolute())
    else:
        raise InputError(source, "is not a source of CTs.", "Name a folder, a CSV file, or the DICOMweb URL of a PACS.")
    if not found.items and not found.left_out:
        raise InputError(source, "contains no CT.", "See docs/inputs.md for the files that are read.")
    if len(found.items) + len(found.left_out) > batch_config().max_items:
        raise InputError(source, f"contains more than {batch_config().max_items} CTs.", "Split it, or raise max_items.")
    return found


def _of_folder(folder: Path, out: Path, follow_links: bool) -> Found:
    """Finds image files, and folders that contain DICOM files, below a folder. Hidden folders and label maps are skipped."""
    found, root = Found(), Path(os.path.realpath(folder))
    if root.name in OUTPUT_FOLDERS and (root.parent / BATCH_FOLDER).is_dir():
        raise InputError(folder, "contains the results of a batch.", "Name the folder of the CTs as INPUT.")
    skipped = {Path(os.path.realpath(out))} if Path(os.path.realpath(out)) != root else set()
    pairs = (folder / "images").is_dir() and (folder / "labels").is_dir()
    top = folder / "images" if pairs else folder
    walked = os.walk(top, followlinks=False, onerror=lambda error: _unreadable(found, folder, error))
    for place, folders, files in walked:
        here = Path(place)
        depth = len(here.relative_to(top).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and _searched(here / name, skipped, folder))
        for name in list(folders):
            if (here / name).is_symlink():
                folders.remove(name)
                found.left_out[_id(here / name, folder)] = "is a link to a folder. Name that folder itself."
        if depth >= _MAX_DEPTH:
            for name in folders:
                found.left_out[_id(here / name, folder)] = _TOO_DEEP
            folders.clear()
        _take_files(found, here, sorted(files), folder, root, follow_links)
        if len(found.items) + len(found.left_out) > batch_config().max_items:
            break
    return found


def _searched(path: Path, skipped: set[Path], folder: Path) -> bool:
    """Returns whether a folder may contain CTs. Outputs of batches, and a studies folder's label maps, do not."""
    if Path(os.path.realpath(path)) in skipped or path == folder / "labels" or (path / BATCH_FOLDER).is_dir():
        return False
    beside = path.name in OUTPUT_FOLDERS and (path.parent / BATCH_FOLDER).is_dir()
    return not beside and not (path.name == "labels" and (path.parent / WORK_FOLDER).is_dir())


def _take_files(found: Found, here: Path, files: list[str], folder: Path, root: Path, follow_links: bool) -> None:
    dicom = False
    others = 0
    for name in files:
        path = here / name
        if name.startswith(".") or name.lower().endswith(SEGMENTATION):
            continue
        if suffix_in(name):
            reason = "" if follow_links else _leads_out(path, root)
            if reason:
                found.left_out[_id(path, folder)] = reason
            else:
                found.items.append(Item(_id(path, folder), "file", str(path)))
        elif not dicom and name.lower().endswith(_DICOM_SUFFIXES):
            dicom = True
        elif not dicom and others < _PROBED and ("." not in name or name.rpartition(".")[2].isdigit()):
            others += 1
            dicom = _begins_like_dicom(path)
    if not dicom:
        return
    # The reader of a series reads all files of its folder.
    reasons = [] if follow_links else [reason for name in files if (reason := _leads_out(here / name, root))]
    if reasons:
        found.left_out[_id(here, folder)] = f"is a series with a file that {reasons[0]}"
    else:
        found.items.append(Item(_id(here, folder), "series", str(here)))


def _leads_out(path: Path, root: Path) -> str:
    """Returns the reason why a link is not followed; empty if the path is no link or stays below the folder."""
    if not path.is_symlink():
        return ""
    target = Path(os.path.realpath(path))
    return "" if root in target.parents else f"is a link that leads out of the folder. {_LINK_REMEDY}"


def _begins_like_dicom(path: Path) -> bool:
    try:
        with opened(path, follow=True) as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _unreadable(found: Found, folder: Path, error: OSError) -> None:
    found.left_out[_id(Path(str(error.filename)), folder)] = f"cannot be read ({error.strerror})."


def _id(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path != folder else folder.name or "."


def split_url(text: str) -> tuple[str, dict[str, str]]:
    """Returns the URL of a PACS without its query, and the filters of the query.

    Raises:
        InputError: the URL contains a user name or password, or is not valid.

    >>> split_url("https://pacs/dicom-web?StudyDate=20240101-20240131")
    ('https://pacs/dicom-web', {'StudyDate': '20240101-20240131'})
    """
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        raise InputError(repr(text[:80]), "is not the URL of a PACS.", "Write http(s)://HOST/PATH?FILTER=VALUE.")
    if parts.username or parts.password:
        raise InputError(
            f"{parts.scheme}://{host}",
            "contains a user name or password, which would be stored.",
            "Set $MONAI_LABEL_DICOMWEB_USERNAME and $MONAI_LABEL_DICOMWEB_PASSWORD instead.",
        )
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")), dict(parse_qsl(parts.query))


def _of_pacs(source: str) -> Found:
    """Asks a PACS for series, page by page. A Modality other than CT must be asked for explicitly.

    Raises:
        InputError: the PACS lists more series than a batch may have.
    """
    url, filters = split_url(source)
    found, seen = Found(), set[str]()
    client = pacs_of(url)
    asked, listed = {"Modality": "CT", **filters}, 0
    paged = "limit" not in filters and "offset" not in filters
    while True:
        page = client.list_series(asked | ({"limit": str(_PAGE), "offset": str(listed)} if paged else {}))
        known = len(seen)
        for number, entry in enumerate(page, listed + 1):
            study, series = _value(entry, "0020000D"), _value(entry, "0020000E")
            valid = valid_uid(study) and valid_uid(series)
            key = series if valid else json.dumps(entry, sort_keys=True)
            if key in seen:
                continue
            seen.add(key)  # also series of other kinds: a page may contain nothing else, and the next one CTs
            if valid and _is_another_kind(entry, asked):
                continue
            if valid:
                stamp = _value(entry, "00201209")
                found.items.append(Item(series, "dicomweb", url, stamp=stamp, study=study, series=series, wished=series))
            else:
                found.left_out[f"entry {number} of the PACS"] = "has no valid UIDs. Correct it in the PACS."
        listed += len(page)
        # A PACS may send fewer series than requested although it has more. One that ignores `offset` repeats itself.
        if not paged or len(seen) == known:
            break
        if len(seen) > (most := batch_config().max_items):
            raise InputError(url, f"lists more than {most} series.", "Add filters, such as StudyDate, or raise max_items.")
    found.items.sort(key=lambda item: item.id)
    return found


def _is_another_kind(entry: object, asked: Mapping[str, str]) -> bool:
    """Returns whether a series is not of the modality that was asked for, as some servers ignore a filter."""
    modality = _value(entry, "00080060")
    return bool(modality) and re.fullmatch(r"[A-Z]{2,16}", asked["Modality"]) is not None and modality != asked["Modality"]


def _value(entry: object, tag: str) -> str:
    """Returns the first value of an attribute in unchecked DICOM JSON; empty if there is none."""
    values = entry.get(tag) if isinstance(entry, dict) else None
    found = values.get("Value") if isinstance(values, dict) else None
    first = found[0] if isinstance(found, list) and found else ""
    return str(first)[:64] if isinstance(first, (str, int)) else ""


def wished_name(item: Item) -> str:
    """Returns the text from which the name of an item's outputs is made."""
    if item.wished:
        return item.wished
    return stem_of(item.id) if item.kind == "file" else item.id


def named(item: Item, name: str, stamp: str) -> Item:
    """Returns an item with the name of its outputs and its stamp."""
    return replace(item, name=name, stamp=stamp)
