"""Sends DICOM files to a DICOMweb server (STOW-RS): those of a folder, a ZIP archive, or a single one."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from medsam2_atlas.base.errors import InputError, StorageError, UnavailableError
from medsam2_atlas.base.progress import Progress, doing, silent
from medsam2_atlas.base.scratch import scratch_folder
from medsam2_atlas.dicom.web import DicomWeb
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.decoding.sniff import has_preamble, is_dicom

_MAX_BYTES, _MAX_FILES = 50_000_000_000, 200_000
"""Limits of the files in a ZIP archive."""
_INDEX = "dicomdir"
"""Name of the list of contents on DICOM media, in lower case. It is a DICOM file, but not an instance that a PACS stores."""


@dataclass
class Sent:
    """The outcome of sending.

    Attributes:
        count: number of instances that the server has now.
        others: number of files that are not DICOM instances.
        problems: why an instance was not sent, by the name of its file.
    """

    count: int = 0
    others: int = 0
    problems: dict[str, str] = field(default_factory=dict)


@contextmanager
def unpacked(source: Path) -> Iterator[list[tuple[str, Path]]]:
    """Yields the files of a folder and its subfolders, or of a ZIP archive, or a single file, with names for messages.

    Args:
        source: the folder, archive or file. An archive is unpacked to the temporary folder for the duration of the block.

    Raises:
        InputError: the source does not exist, or the archive cannot be unpacked.
    """
    if source.is_dir():
        yield [(str(file.relative_to(source)), file) for file in sorted(source.rglob("*")) if file.is_file()]
    elif not source.is_file():
        raise InputError(source, "does not exist.", "Name a folder of DICOM files, a DICOM file or a ZIP archive.")
    elif zipfile.is_zipfile(source):
        with scratch_folder() as folder:
            limits = {"max_bytes": _MAX_BYTES, "max_files": _MAX_FILES}
            about, _ = run_task("unzip", source, path=str(source.absolute()), folder=str(folder), **limits)
            yield [(name, folder / f"{number:05d}") for number, name in enumerate(about["names"])]
    else:
        yield [(source.name, source)]


def send(files: Sequence[tuple[str, Path]], server: DicomWeb, progress: Progress = silent) -> Sent:
    """Sends the DICOM instances among files. A file that the server rejects is a problem of the outcome.

    An interrupted run can be repeated: the server gets the same objects again, and keeps or replaces those that it has.

    Args:
        files: the files with their names for messages.
        server: the server.
        progress: called with the fraction completed.

    Raises:
        UnavailableError: the server does not answer.
    """
    sent = Sent()
    for number, (name, file) in enumerate(files):
        doing(name)
        try:
            if name.lower().endswith(_INDEX) or not is_dicom(file):
                sent.others += 1
            elif not has_preamble(file):
                sent.problems[name] = "has no DICOM file header. Convert it first, for example with dcmconv of DCMTK."
            else:
                server.store(file)
                sent.count += 1
        except UnavailableError:
            raise
        except (StorageError, InputError, OSError) as error:
            sent.problems[name] = str(error)
        progress("sending", (number + 1) / len(files))
    return sent
