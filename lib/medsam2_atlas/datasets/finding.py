"""Finds the files of each case in a download, by the patterns of a layout.

A download is untrusted: names are checked, links must stay inside the download's folder, and only regular files of a readable
size are accepted. One bad file never stops the search; it is a problem of its case.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.datasets.layout import Layout, is_case_name
from medsam2_atlas.imaging.decoding import DecodingLimits
from medsam2_atlas.imaging.kinds import WRITTEN, stem_of, suffix_in
from medsam2_atlas.imaging.labels import organ_table

LABEL_MAP = 0
"""Stands for all organs in `CaseFiles.labels`: the file is a label map, not the mask of one organ."""

_MAX_ENTRIES = 100_000
_MAX_BYTES = DecodingLimits().voxels * 8 + (64 << 20)
"""Max size of a file: the largest image that is decoded, with 8 bytes per voxel. Larger files are not even hashed."""


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case.

    Attributes:
        name: the name of the case.
        image: the CT.
        labels: pairs of an organ number and its mask, or one pair of `LABEL_MAP` and the label map; empty without annotation.
    """

    name: str
    image: Path
    labels: tuple[tuple[int, Path], ...]


@dataclass
class Listing:
    """The cases of a download.

    Attributes:
        cases: annotated CTs whose files can be opened, by name.
        problems: why a case cannot be used, by name.
        unlabelled: names of CTs without annotation.
        excluded: names of cases that are not CTs.
    """

    cases: dict[str, CaseFiles] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)


def find_cases(layout: Layout, folder: Path) -> Listing:
    """Returns the cases in the folder of a download.

    Args:
        layout: the layout of the download.
        folder: the folder; it is searched under the first of the layout's roots that contains an image.

    Raises:
        InputError: no root contains an image, or a folder has too many entries.
        OSError: a folder cannot be read.
    """
    if not folder.is_dir():
        raise InputError(folder, "is not a folder.", "Name the folder that the data set was unpacked into.")
    for root in layout.roots:
        images = _by_case(folder / root, layout.images)
        if images:
            return _listing(layout, folder, folder / root, images)
    places = ", ".join(f"{pattern}.nii.gz" for pattern in layout.images)
    raise InputError(
        folder, f"contains no images of {layout.title}.", f"Unpack the data set. Its images are expected at {places}."
    )


def _listing(layout: Layout, folder: Path, root: Path, images: dict[str, list[Path]]) -> Listing:
    found, inside = Listing(), os.path.realpath(folder)
    maps = _by_case(root, layout.labels)
    for case in sorted({*images, *maps}):
        name = layout.prefix + case
        if not is_case_name(name):
            shown = os.fsencode(name).decode("utf-8", "backslashreplace")
            found.problems[shown[:100]] = "has a name with characters other than letters, digits and _.()+-. Rename its files."
            continue
        if layout.numbers is not None:
            number = re.search(r"(\d{1,9})$", name)
            if number is None:
                found.problems[name] = "has no number at the end of its name, which tells CTs from others. Rename its files."
                continue
            if not layout.numbers.first <= int(number[1]) <= layout.numbers.last:
                found.excluded.append(name)
                continue
        files, problem = _files_of(layout, root, case, images.get(case, []), maps.get(case, []))
        problem = problem or next(filter(None, (_unusable(file, inside) for file in files)), "")
        if problem:
            found.problems[name] = problem
        elif len(files) == 1:
            found.unlabelled.append(name)
        else:
            labels = files[1:]
            organs = [_organ_of(layout, file) for file in labels] if layout.masks else [LABEL_MAP]
            found.cases[name] = CaseFiles(name, files[0], tuple(sorted(zip(organs, labels, strict=True))))
    return found


def _files_of(layout: Layout, root: Path, case: str, images: list[Path], labels: list[Path]) -> tuple[list[Path], str]:
    """Returns the image of a case and its label map or masks; or the reason why they cannot be used."""
    if not images:
        return [], f"has a label map, but no image: {_names(labels)}."
    if layout.masks:
        labels, problem = _masks_of(layout, root, case)
        if problem:
            return [], problem
    for kind, files in (("images", images), ("label maps", [] if layout.masks else labels)):
        if len(files) > 1:
            return [], f"has several {kind}: {_names(files)}. Keep one of them."
    return [images[0], *labels], ""


def _masks_of(layout: Layout, root: Path, case: str) -> tuple[list[Path], str]:
    """Returns the masks of a case, and the reason why they cannot be used; no masks if the case has none at all."""
    found: list[Path] = []
    missing: list[str] = []
    folder, _, last = layout.masks.replace("{case}", case).rpartition("/")
    for organ, names in layout.mask_names.items():
        stems = [root / folder / last.replace("{organ}", name) for name in names]
        files = [file for stem in stems for file in _with_suffix(stem)]
        if len(files) > 1:
            return [], f"has several masks of {organ}: {_names(files)}. Keep one of them."
        if not files and organ not in layout.partial:
            missing.append(organ)
        found += files
    return found, f"lacks masks of {', '.join(missing)}." if found and missing else ""


def _organ_of(layout: Layout, file: Path) -> int:
    """Returns the number of the organ that a mask is of."""
    before, _, after = layout.masks.rpartition("/")[2].partition("{organ}")
    stem = stem_of(file.name)
    name = stem[len(before) : len(stem) - len(after)]
    organ = next(organ for organ, names in layout.mask_names.items() if name in names)
    return next(known.index for known in organ_table().organs if known.name == organ)


def _unusable(file: Path, inside: str) -> str:
    """Returns the reason why a file is not opened; empty if it can be. inside: the real path of the download's folder."""
    real = os.path.realpath(file)
    if not real.startswith(inside.rstrip(os.sep) + os.sep):
        return f"is not used: {file.name} is a link that leads out of the folder. Copy the file into the folder."
    try:
        state = os.stat(real)  # noqa: PTH116 the checked path is opened, not the link
    except OSError as error:
        return f"is not used: {file.name} cannot be opened ({error.strerror})."
    if not stat.S_ISREG(state.st_mode):
        return f"is not used: {file.name} is not a regular file."
    if state.st_size > _MAX_BYTES:
        return f"is not used: {file.name} has {state.st_size / 1e9:.0f} GB, more than the largest image that can be read."
    return ""


def _by_case(root: Path, patterns: tuple[str, ...]) -> dict[str, list[Path]]:
    """Returns the files that match the patterns, by the text that `{case}` stands for."""
    found: dict[str, list[Path]] = {}
    for pattern in patterns:
        for case, file in _matches(root, pattern):
            found.setdefault(case, []).append(file)
    return found


def _matches(root: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    """Yields the text of `{case}` and the file, for each file that matches a pattern."""
    *folders, last = pattern.split("/")
    places: list[tuple[str | None, Path]] = [(None, root)]
    for part in folders:
        following: list[tuple[str | None, Path]] = []
        for case, place in places:
            if case is not None or "{case}" not in part:
                following.append((case, place / (part if case is None else part.replace("{case}", case))))
            else:
                following += [(name, place / entry) for name, entry in _scan(place, part, folders=True)]
        places = following
    for case, place in places:
        if case is None:
            yield from ((name, place / entry) for name, entry in _scan(place, last, folders=False))
        else:
            yield from ((case, file) for file in _with_suffix(place / last.replace("{case}", case)))


def _scan(folder: Path, part: str, *, folders: bool) -> Iterator[tuple[str, str]]:
    """Yields the text of `{case}` and the entry's name, for the entries of a folder that match one part of a pattern."""
    before, after = part.split("{case}", 1)
    try:
        with os.scandir(folder) as entries:
            found = list(islice(entries, _MAX_ENTRIES + 1))
    except (FileNotFoundError, NotADirectoryError):
        return
    if len(found) > _MAX_ENTRIES:
        raise InputError(folder, f"has more than {_MAX_ENTRIES} entries.", "Split the data set into several folders.")
    for entry in sorted(found, key=lambda entry: entry.name):
        if entry.name.startswith(".") or folders != entry.is_dir():  # macOS packs hidden files named ._… into archives
            continue
        suffix = "" if folders else suffix_in(entry.name)
        stem = entry.name[: len(entry.name) - len(suffix)]
        if (suffix or folders) and stem.startswith(before) and stem.endswith(after) and len(stem) > len(before) + len(after):
            yield stem[len(before) : len(stem) - len(after)], entry.name


def _with_suffix(stem: Path) -> list[Path]:
    """Returns the files whose name is that of `stem` and the suffix of an image."""
    try:
        return [file for suffix in WRITTEN if os.path.lexists(file := stem.with_name(stem.name + suffix))]
    except (OSError, ValueError):  # the name is too long, or contains a null byte
        return []


def _names(files: list[Path]) -> str:
    return ", ".join(f"{file.parent.name}/{file.name}" for file in files)
