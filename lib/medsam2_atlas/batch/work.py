"""The work on one item, in three steps: prepare (read, register), segment, write. Any process can do any step.

Outputs are written under new names in the folder for parts. Only the process that keeps the manifest moves them to their final
place, so two workers that do the same item by accident cannot disturb each other.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from medsam2_atlas.base.errors import AtlasError, InputError, MedSAM2AtlasError, ResultsError, WeightsError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.memory import free_gpu_memory
from medsam2_atlas.base.progress import current
from medsam2_atlas.base.scratch import scratch_folder
from medsam2_atlas.base.stages import stage
from medsam2_atlas.batch.items import Item, content_sha256
from medsam2_atlas.batch.outcomes import Done, Outcome
from medsam2_atlas.batch.pacs import pacs_of
from medsam2_atlas.batch.prepared import Prepared, keep, take
from medsam2_atlas.batch.problems import is_away, is_disk_full, is_passing, reason_of
from medsam2_atlas.batch.session import ChangedModelsError, Session
from medsam2_atlas.imaging.decoding import file_states
from medsam2_atlas.imaging.volume import write_volume
from medsam2_atlas.segmenters.registry import model_of
from medsam2_atlas.studies.runner import Run, run

log = logging.getLogger(__name__)

NO_ENERGY = "not measured in batches, because cases overlap"


def prepare(item: Item, session: Session, *, handed_over: bool = False) -> Prepared:
    """Reads a CT, and registers it if the segmenter begins with that.

    Args:
        item: the item.
        session: job and models of this process.
        handed_over: whether another process goes on. It makes the score maps, so only the registration is made here.

    Raises:
        MedSAM2AtlasError: the CT cannot be fetched or used.
        OSError: the CT cannot be read.
    """
    began = time.perf_counter()
    if session.job.suffix == ".dcm" and item.kind == "file":
        problem = "is not a DICOM series, which a segmentation must refer to."
        raise InputError(item.path, problem, "Write NIfTI label maps (--results nifti), or give folders of series.")
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
            (session.models.align if handed_over else session.models.scores)(volume)
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
    prepared.seconds["segment"] = prepared.seconds.get("segment", 0.0) + time.perf_counter() - began
    return ran


def write(prepared: Prepared, ran: Run, session: Session) -> Done:
    """Writes a label map into the folder for parts.

    Raises:
        MedSAM2AtlasError: the label map cannot be written in the form of the results, or the PACS does not take it.
        OSError: the disk cannot be written.
    """
    began, job = time.perf_counter(), session.job
    session.check_unchanged()
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


def work_on(item: Item, session: Session, prepared: str = "") -> Outcome:
    """Does all steps of an item, one after the other. Errors are part of the outcome.

    Args:
        item: the item.
        session: job and models of this process.
        prepared: name of the item's CT if another worker has prepared it. If it is not there any more, it is prepared again.
    """

    def steps() -> Outcome:
        one = take(prepared, item, session.job.parts) or prepare(item, session)
        try:
            return Outcome(item, write(one, segment(one, session), session), prepared_by=one.by)
        finally:
            one.close()

    return guarded(item, steps)


def hand_over(item: Item, session: Session, by: str) -> Outcome:
    """Does only the first step of an item, and stores its CT, so that a worker with a GPU goes on; the outcome has no result.

    Args:
        item: the item.
        session: job and models of this process.
        by: name of this worker, for the manifest.
    """

    def step() -> Outcome:
        one = prepare(item, session, handed_over=True)
        try:
            return Outcome(item, prepared=keep(replace(one, by=by), session.job))
        finally:
            one.close()

    return guarded(item, step)


def guarded(item: Item, steps: Callable[[], Outcome]) -> Outcome:
    """Runs steps of an item, and returns an outcome even if they fail."""
    current()("case", 0.0)
    try:
        return steps()
    except Exception as error:
        expected, models = isinstance(error, (MedSAM2AtlasError, OSError)), _concerns_models(error)
        log.log(logging.INFO if expected else logging.ERROR, "%s cannot be segmented", item.id, exc_info=True)
        outcome = Outcome(
            item,
            reason=reason_of(error),
            passing=is_passing(error),
            away=is_away(error),
            fatal=models or is_disk_full(error),
            unusable=models,
        )
    if outcome.passing:
        free_gpu_memory()
    return outcome


def _concerns_models(error: Exception) -> bool:
    """Returns whether atlas or weights were replaced, removed or damaged, so that all other items would fail, too."""
    if isinstance(error, (AtlasError, WeightsError)):
        return not isinstance(error, ResultsError) and not is_passing(error)
    return isinstance(error, ChangedModelsError)


def _write_seg(prepared: Prepared, ran: Run, session: Session, part: Path) -> None:
    from medsam2_atlas.dicom import LabelOrigin, write_seg

    tag = model_of(session.job.segmenter)
    origin = LabelOrigin(tag, 1, "", "AUTOMATIC", session.job.segmenter)
    try:
        write_seg(ran.segmentation.labels.restored(), prepared.path, origin).save_as(part, enforce_file_format=True)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
