"""The work on one item, in three steps: prepare (read, register), segment, write. Any process can do any step.

Outputs are written under new names in the folder for parts. Only the process that keeps the manifest moves them to their final
place, so two workers that do the same item by accident cannot disturb each other.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import requests

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.memory import free_gpu_memory
from medsam2_atlas.base.progress import current
from medsam2_atlas.base.scratch import scratch_folder
from medsam2_atlas.base.stages import stage
from medsam2_atlas.batch.items import Item, content_sha256
from medsam2_atlas.batch.problems import is_away, is_disk_full, is_passing, reason_of
from medsam2_atlas.batch.session import Session
from medsam2_atlas.dicom.web import DicomWeb
from medsam2_atlas.imaging.decoding import file_states
from medsam2_atlas.imaging.volume import Volume, write_volume
from medsam2_atlas.segmenters.base import Provenance
from medsam2_atlas.segmenters.registry import model_of
from medsam2_atlas.studies.runner import Run, run

log = logging.getLogger(__name__)

T = TypeVar("T")

NO_ENERGY = "not measured in batches, because cases overlap"
USER_VARIABLE, PASSWORD_VARIABLE = "MONAI_LABEL_DICOMWEB_USERNAME", "MONAI_LABEL_DICOMWEB_PASSWORD"


@dataclass(frozen=True)
class Done:
    """The result of an item, not yet at its final place.

    Attributes:
        part: the output file in the folder for parts.
        sha256: its SHA-256.
        input_sha256: SHA-256 of the CT; see `items.content_sha256`.
        report: the segmenter's report, as JSON values.
        provenance: provenance of the result, with device and precision.
        seconds: wall time of `prepare`, `segment` and `write`, in s.
    """

    part: Path
    sha256: str
    input_sha256: str
    report: dict[str, Any]
    provenance: Provenance
    seconds: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt at an item.

    Attributes:
        item: the item.
        done: the result; None if the attempt failed.
        reason: why it failed.
        passing: whether a later attempt may succeed.
        away: whether a PACS or a network drive does not answer, so that new cases should wait.
        fatal: whether all other items would fail, too, as on a full disk.
        unusable: whether all items would fail on this worker, but perhaps not on others.
        worker: who made the attempt; empty for this process.
        missing: names of the model files that a worker lacks; see `shipping`.
    """

    item: Item
    done: Done | None = None
    reason: str = ""
    passing: bool = False
    away: bool = False
    fatal: bool = False
    unusable: bool = False
    worker: str = ""
    missing: tuple[str, ...] = ()


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
        opened: removes temporary files.
    """

    item: Item
    path: Path
    volume: Volume
    input_sha256: str
    registered: tuple[Path, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    opened: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Removes temporary files."""
        self.opened.close()


def prepare(item: Item, session: Session) -> Prepared:
    """Reads a CT, and registers it if the segmenter begins with that.

    Raises:
        MedSAM2AtlasError: the CT cannot be fetched or used.
        OSError: the CT cannot be read.
    """
    began = time.perf_counter()
    with ExitStack() as opened:
        path = Path(item.path)
        if item.kind == "dicomweb":
            path = opened.enter_context(scratch_folder())
            if not pacs_of(item.path).fetch_series(item.study, item.series, path):
                raise InputError(item.series, "has no objects in the PACS.", "Remove it from the query.")
        states, digest = file_states(path), content_sha256(path)
        with stage("reading"):
            volume = session.models.images.read(path, session.models.hu)
        if file_states(path) != states:
            raise InputError(item.path, "changed while it was read.", "Run the batch again when it is complete.")
        session.models.passing.used.clear()
        if session.registers:
            session.models.score_maps(volume, session.models.atlas())
        registered = tuple(session.models.passing.used)
        found = Prepared(item, path, volume, digest, registered, opened=opened.pop_all())
    found.seconds["prepare"] = time.perf_counter() - began
    return found


def segment(prepared: Prepared, session: Session) -> Run:
    """Runs the segmenter on a prepared CT, on the memory ladder.

    Raises:
        MedSAM2AtlasError: the CT or an option cannot be used.
    """
    began = time.perf_counter()
    ran = run(session.segmenter, prepared.volume, session.job.options, session.models, NO_ENERGY)
    prepared.seconds["segment"] = time.perf_counter() - began
    return ran


def write(prepared: Prepared, ran: Run, session: Session) -> Done:
    """Writes a label map into the folder for parts.

    Raises:
        MedSAM2AtlasError: the label map cannot be written in the form of the results, or the PACS does not take it.
        OSError: the disk cannot be written.
    """
    began, job = time.perf_counter(), session.job
    part = job.parts / f"{uuid.uuid4().hex}{job.suffix}"
    if job.suffix == ".dcm":
        _write_seg(prepared, ran, session, part)
    else:
        write_volume(ran.segmentation.labels, part)
    if job.results == "pacs":
        pacs_of(job.pacs).store(part)
    provenance = session.segmenter.provenance(replace(job.options, memory=ran.step.memory))
    digest = sha256(part)
    for file in prepared.registered:
        file.unlink(missing_ok=True)
    prepared.seconds["write"] = time.perf_counter() - began
    seconds = {name: round(value, 3) for name, value in prepared.seconds.items()}
    return Done(part, digest, prepared.input_sha256, ran.segmentation.report.to_json(), provenance, seconds)


def work_on(item: Item, session: Session) -> Outcome:
    """Does all steps of an item, one after the other. Errors are part of the outcome."""

    def steps() -> Outcome:
        prepared = prepare(item, session)
        try:
            return Outcome(item, write(prepared, segment(prepared, session), session))
        finally:
            prepared.close()

    return guarded(item, steps)


def register(item: Item, session: Session) -> Outcome:
    """Does only the first step of an item, so that a worker with a GPU finds its registration; the outcome has no result."""

    def step() -> Outcome:
        prepare(item, session).close()
        return Outcome(item)

    return guarded(item, step)


def guarded(item: Item, steps: Callable[[], Outcome]) -> Outcome:
    """Runs steps of an item, and returns an outcome even if they fail."""
    current()("case", 0.0)
    try:
        return steps()
    except Exception as error:
        expected = isinstance(error, (MedSAM2AtlasError, OSError))
        log.log(logging.INFO if expected else logging.ERROR, "%s cannot be segmented", item.id, exc_info=True)
        outcome = Outcome(
            item, reason=reason_of(error), passing=is_passing(error), away=is_away(error), fatal=is_disk_full(error)
        )
    if outcome.passing:
        free_gpu_memory()
    return outcome


def pacs_of(url: str) -> DicomWeb:
    """Returns a client of a PACS. User name and password come from the environment, never from a URL or a manifest."""
    session = requests.Session()
    user, password = os.environ.get(USER_VARIABLE, ""), os.environ.get(PASSWORD_VARIABLE, "")
    if user and password:
        session.auth = (user, password)
    return DicomWeb(url, session=session)


def _write_seg(prepared: Prepared, ran: Run, session: Session, part: Path) -> None:
    from medsam2_atlas.dicom import LabelOrigin, write_seg

    if prepared.item.kind == "file":
        problem = "is not a DICOM series, which a segmentation must refer to."
        raise InputError(prepared.item.path, problem, "Write NIfTI label maps (--results nifti), or give folders of series.")
    tag = model_of(session.job.segmenter)
    origin = LabelOrigin(tag, 1, "", "AUTOMATIC", session.job.segmenter)
    try:
        write_seg(ran.segmentation.labels.restored(), prepared.path, origin).save_as(part, enforce_file_format=True)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
