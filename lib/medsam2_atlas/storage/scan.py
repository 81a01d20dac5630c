"""Lists the current label files of a studies folder by their names and stamps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from medsam2_atlas.base.errors import MedSAM2AtlasError, StorageError
from medsam2_atlas.imaging.kinds import WRITTEN_LABELS
from medsam2_atlas.storage.doubts import beside_note, twins_note, twins_problem
from medsam2_atlas.storage.folder import Listing, encodable, list_files
from medsam2_atlas.storage.links import Roots

Key = tuple[str, str]
"""Study and tag."""


MAX_NAME_BYTES = 255
"""Max length of a file name in bytes."""


@dataclass
class LabelScan:
    """The label files of all tags.

    Attributes:
        files: the path in the studies folder and the stamp of each file, by study and tag.
        left_out: studies and tags with a file that is left out.
        unreadable: tags whose folder cannot be listed, with the reason.
        unsupported: why files have an unsupported type, by their path in the studies folder and their tag.
    """

    files: dict[Key, list[tuple[str, str]]] = field(default_factory=dict)
    left_out: set[Key] = field(default_factory=set)
    unreadable: dict[str, str] = field(default_factory=dict)
    unsupported: dict[Key, str] = field(default_factory=dict)


def scan_labels(path: Path, roots: Roots) -> LabelScan:
    """Scans `labels/`. A tag whose folder cannot be listed does not stop the scan.

    Raises:
        OSError: `labels/` itself cannot be listed.
        StorageError: `labels/` is a link that leads elsewhere.
    """
    found = LabelScan()
    for tag in tags_in(path, roots):
        try:
            listing = list_files(path / "labels" / tag, roots, labels=True)
        except (OSError, StorageError) as error:
            found.unreadable[tag] = reason(error)
            continue
        for study, names in listing.files.items():
            found.files[study, tag] = [(f"labels/{tag}/{name}", listing.stamps[name]) for name in names]
        found.unsupported |= {(f"labels/{tag}/{name}", tag): text for name, text in listing.unsupported.items()}
        found.left_out |= {(study, tag) for study in listing.problems}
    return found


def tags_in(path: Path, roots: Roots) -> list[str]:
    """Returns the names of the folders in `labels/`, including links to folders.

    Raises:
        OSError: `labels/` cannot be listed.
        StorageError: `labels/` is a link that leads elsewhere.
    """
    try:
        with os.scandir(roots.check(path / "labels")) as entries:
            return sorted(entry.name for entry in entries if encodable(entry.name) and _is_folder(entry))
    except (FileNotFoundError, NotADirectoryError):
        return []


def label_files(path: Path, roots: Roots, study: str, tag: str) -> list[Path]:
    """Returns the files of one study's label map under a tag: several if they differ only in their suffix.

    Args:
        path: the studies folder.
        roots: folders that links may lead to.
        study: the name of the study.
        tag: the tag of the label map.

    Raises:
        OSError: the files cannot be accessed.
        StorageError: a link leads to a folder that is not allowed, or to a missing file.
    """
    folder = roots.check(path / "labels" / tag)
    found = []
    for name in label_names(study):
        file = folder / name
        if file.is_symlink():
            roots.check(file)
            if not file.exists():
                raise StorageError(file.name, "is a symbolic link to a file that does not exist.", "Bring the file back.")
        if file.is_file():
            found.append(file)
    if len({file.name.lower() for file in found}) < len(found):  # a disk that ignores case finds one file by both names
        found = sorted({*found} & {*folder.iterdir()})
    return found


def besides(files: Iterable[Path], current: Path) -> list[Path]:
    """Returns the files except the current one, which a disk that ignores case may list under another name."""
    return [file for file in files if file != current and not _same_entry(file, current)]


def _same_entry(file: Path, current: Path) -> bool:
    try:
        return file.name.lower() == current.name.lower() and os.path.samestat(file.lstat(), current.lstat())
    except FileNotFoundError:
        return False


def label_names(study: str) -> list[str]:
    """Returns the names that the file of a study's label map may have."""
    names = (f"{study}{suffix}" for suffix in WRITTEN_LABELS)
    return [name for name in names if len(os.fsencode(name)) <= MAX_NAME_BYTES]  # looking for a longer name is an error


def readable(file: Path) -> bool:
    """Returns whether this process may read a file."""
    return os.access(file, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


def quick_look(file: Path) -> str:
    """Returns the problem that a label file's first bytes show, or an empty string. No library opens the file."""
    with file.open("rb") as stream:
        head = stream.read(4096)
    if not head:
        return "is empty (0 bytes). Copy it again."
    sound = {
        ".gz": head.startswith(b"\x1f\x8b"),
        ".nii": head[:4] in {size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big")},
        ".nrrd": head.startswith(b"NRRD"),
        ".mha": b"DimSize" in head,
    }[file.suffix.lower()]
    return "" if sound else f"is not a {file.suffix} file. Save it again."


def reason(error: Exception) -> str:
    """Returns the message of an error for users, without paths of the server."""
    if isinstance(error, MedSAM2AtlasError):
        return f"{error.problem} {error.remedy}".strip()
    if isinstance(error, OSError):
        return f"cannot be read or written ({error.strerror or error}). Check its permissions and the disk."
    return f"cannot be used ({type(error).__name__}: {error})."


def resolve_twins(listing: Listing, known: Mapping[str, tuple[str, str | None]]) -> Listing:
    """Returns a listing of images without the studies whose files contain different images.

    Args:
        listing: the listing of the studies folder.
        known: the comparisons of studies with several files, see `rows.read_twins`.
    """
    found = replace(listing, files=dict(listing.files), problems=dict(listing.problems))
    for study, names in listing.files.items():
        if len(names) == 1:
            continue
        found.twins[study] = json.dumps([[name, listing.stamps[name]] for name in names])
        files, verdict = known.get(study, ("", None))
        verdict = verdict if files == found.twins[study] else None
        if verdict == "":
            found.notes[study] = twins_note(names)
        else:
            found.problems[study] = twins_problem(names, verdict)
            del found.files[study]
    for name in set(found.unsupported) & set(found.files):
        found.notes[name] = f"{found.notes.get(name, '')} {beside_note(found.unsupported[name])}".strip()
    return found


def image_problems(listing: Listing, suspects: set[str]) -> dict[str, str]:
    """Returns the problems of images, and the notes on them, by study.

    Args:
        listing: the listing of the studies folder.
        suspects: studies whose image is checked for read permission.
    """
    found = {**listing.notes, **listing.left_out}
    for study in suspects & set(listing.files):
        if not readable(listing.folder / listing.files[study][-1]):
            found[study] = "cannot be read (Permission denied). Give the server permission to read it."
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
