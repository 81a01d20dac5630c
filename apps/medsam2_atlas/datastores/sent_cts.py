"""Adds the CTs that a person sends as studies: image files, ZIP archives, and the slices of DICOM series.

One bad file does not stop the others. Clients' file names never become paths; only study names derive from them, which the
store checks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, StorageError
from medsam2_atlas.base.scratch import scratch_folder
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.kinds import stem_of, suffix_in
from medsam2_atlas.imaging.volume import read_volume, write_volume

_MAX_FILES = 10_000
_ZIP = ".zip"
_KINDS = "Send NIfTI, NRRD or MHA, or DICOM files, also in a ZIP archive."
_SLICES = "DICOM files"


@dataclass(frozen=True)
class SentFile:
    """A file that was sent.

    Attributes:
        name: the name that the client gave it.
        file: where it is stored.
    """

    name: str
    file: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a file, or of a series.

    Attributes:
        name: the file or series, for people.
        study: the name of the study that it is now; empty if it was not added.
        error: why it was not added; None if it was.
    """

    name: str
    study: str = ""
    error: MedSAM2AtlasError | None = None


def add_cts(
    datastore: StudyDatastore, sent: Sequence[SentFile], name: str, info: Mapping[str, Any], max_bytes: int
) -> list[Outcome]:
    """Adds all CTs in the files that a person sent.

    Args:
        datastore: the studies.
        sent: the files; all that are DICOM files may be slices of the same series.
        name: name for the study if the files contain one CT; the beginning of the names if they contain several. By default,
            names derive from the files' names.
        info: information to store with each image.
        max_bytes: max number of bytes that an archive may unpack to.

    Returns:
        What became of each CT, and of each file that is none.
    """
    with scratch_folder() as folder:
        found = list(_found(sent, folder, max_bytes))
        several = sum(one.error is None for one in found) > 1
        return [one.add(datastore, name, several, info) for one in found]


@dataclass(frozen=True)
class _Found:
    """A CT, or a file that cannot be used. `own`: the name that it suggests for the study."""

    name: str
    own: str = ""
    file: Callable[[], Path] = Path
    error: MedSAM2AtlasError | None = None

    def add(self, datastore: StudyDatastore, name: str, several: bool, info: Mapping[str, Any]) -> Outcome:
        if self.error is not None:
            return Outcome(self.name, "", self.error)
        study = f"{name}_{self.own}" if name and several else name or self.own
        try:
            return Outcome(self.name, datastore.add_image(study, str(self.file()), dict(info)))
        except MedSAM2AtlasError as error:
            return Outcome(self.name, "", error)
        except OSError as error:  # of this file; the others may still be added
            return Outcome(self.name, "", _unwritten(self.name, error))


def _found(sent: Sequence[SentFile], folder: Path, max_bytes: int, inside: str = "") -> Iterator[_Found]:
    """Yields the CTs in files, and the files that cannot be used. inside: the archive from which the files come, if any."""
    slices, others = folder / "slices", list[SentFile]()
    for one in sent:
        name = Path(one.name).name
        suffix = suffix_in(name)
        if suffix:
            yield _Found(name, stem_of(name), lambda one=one, suffix=suffix: _renamed(one, folder, suffix))  # type: ignore[misc]
        elif name.lower().endswith(_ZIP) and not inside:
            yield from _unpacked(one, name, folder, max_bytes)
        elif name.lower().endswith(_ZIP):
            yield _Found(name, error=InputError(name, "is an archive inside an archive.", "Send it on its own."))
        else:
            others.append(one)
    if not others:
        return
    try:
        slices.mkdir()
        for number, one in enumerate(others):
            one.file.rename(slices / f"{number:05d}")
    except OSError as error:
        yield _Found(_SLICES, error=_unwritten(_SLICES, error))
        return
    yield from _series(slices, others, inside)


def _unpacked(one: SentFile, name: str, folder: Path, max_bytes: int) -> Iterator[_Found]:
    inner = folder / f"zip-{one.file.name}"
    files = inner / "files"
    packed = inner / "packed.zip"
    try:
        files.mkdir(parents=True)
        one.file.rename(packed)
        found, _ = run_task("unzip", packed, path=str(packed), folder=str(files), max_bytes=max_bytes, max_files=_MAX_FILES)
        names = [str(inner_name) for inner_name in found["names"]]
        if not names:
            raise InputError(name, "contains no files.", _KINDS)
    except MedSAM2AtlasError as error:
        problem = error.problem if isinstance(error, InputError) else str(error)
        yield _Found(name, error=InputError(name, problem, error.remedy or _KINDS))
        return
    except OSError as error:
        yield _Found(name, error=_unwritten(name, error))
        return
    packed.unlink()
    entries = [SentFile(inner_name, files / f"{number:05d}") for number, inner_name in enumerate(names)]
    yield from _found(entries, inner, max_bytes, name[: -len(_ZIP)])


def _series(folder: Path, sent: Sequence[SentFile], inside: str) -> Iterator[_Found]:
    """Yields the series of the DICOM files in a folder."""
    what = f"{inside}{_ZIP}" if inside else sent[0].name if len(sent) == 1 else f"{len(sent)} files"
    try:
        found, _ = run_task("series_folders", folder, folder=str(folder))
    except MedSAM2AtlasError as error:
        problem = error.problem if len(sent) > 1 or inside else "is neither an image nor a slice of a DICOM series."
        yield _Found(what, error=InputError(what, problem, _KINDS))
        return
    except OSError as error:
        yield _Found(what, error=_unwritten(what, error))
        return
    own = inside or (stem_of(Path(sent[0].name).name) if len(sent) == 1 else "ct")
    several = len(found["series"]) > 1
    unique = len({series["number"] for series in found["series"]}) == len(found["series"])
    for number, series in enumerate(found["series"], 1):
        shown = (series["number"] if unique else "") or number
        label = f"{what}: series {shown}, {len(series['files'])} files"
        if series["modality"] not in ("CT", ""):
            problem = f"has the modality {series['modality']}."
            yield _Found(label, error=InputError(label, problem, "Send CTs; other modalities cannot be segmented."))
            continue
        study = f"{own}_{shown}" if several else own
        yield _Found(label, study, lambda names=series["files"], number=number: _volume(folder, names, number))  # type: ignore[misc]


def _volume(folder: Path, names: Sequence[str], number: int) -> Path:
    """Writes the volume of the slices to a NIfTI file and returns it."""
    own = folder.parent / f"series-{number}"
    own.mkdir()
    for name in names:
        os.link(folder / name, own / name)
    file = own.with_suffix(".nii.gz")
    try:
        write_volume(read_volume(own), file)
    except InputError as error:
        raise InputError("series", error.problem, error.remedy) from error
    return file


def _renamed(one: SentFile, folder: Path, suffix: str) -> Path:
    """Gives an image file the suffix of its format and returns it."""
    file = folder / f"image-{one.file.name}{suffix}"
    return one.file.rename(file)


def _unwritten(name: str, error: OSError) -> StorageError:
    return StorageError(
        name, f"cannot be stored ({error.strerror or error}).", "Free some space on the server, then send it again."
    )
