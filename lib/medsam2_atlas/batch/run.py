"""Runs a batch from its source to its manifest: what `medsam2-atlas batch` and `segment_many` do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.batch.addresses import check_cluster
from medsam2_atlas.batch.conduct import conduct, full_disk
from medsam2_atlas.batch.config import batch_config
from medsam2_atlas.batch.engine import Engine, PipelinedEngine, SerialEngine, kept_scores
from medsam2_atlas.batch.job import Job
from medsam2_atlas.batch.manifest import Manifest
from medsam2_atlas.batch.place import Place
from medsam2_atlas.batch.plan import Plan
from medsam2_atlas.batch.problems import reason_of
from medsam2_atlas.batch.publish import FilePublisher, Publisher, StudiesPublisher
from medsam2_atlas.batch.session import Session
from medsam2_atlas.batch.sources import find_items, split_url
from medsam2_atlas.batch.tally import Tally, Watch, unwatched
from medsam2_atlas.segmenters.registry import model_of
from medsam2_atlas.storage import StudyFolder


@dataclass(frozen=True)
class Batch:
    """A batch that a user asks for.

    Attributes:
        source: a folder, a CSV file, or the URL of a PACS; see `sources.find_items`.
        out: folder of the outputs; for `studies`, the studies folder.
        job: what is done with each CT; its folder for parts and its key are set here.
        cluster: `local`, the address of a scheduler, or a YAML file; empty: this process alone. See `clusters`.
        workers: number of workers of `local`; 0 chooses it.
        tls: folder of the certificates for a scheduler's address; None without.
        follow_links: whether links may lead out of the source's folder.
        retry_failed: whether cases that failed are done again although nothing has changed.
        serial: whether this process does one case after the other, without pipelining.
    """

    source: str
    out: Path
    job: Job
    cluster: str = ""
    workers: int = 0
    tls: Path | None = None
    follow_links: bool = False
    retry_failed: bool = False
    serial: bool = False


@dataclass(frozen=True)
class Ended:
    """The end of a batch.

    Attributes:
        tally: the final state.
        manifest: the manifest's file.
    """

    tally: Tally
    manifest: Path


def place_of(batch: Batch) -> Place:
    """Returns the folder of a batch's manifest: `out`, or in a studies folder, a folder in its work folder."""
    if batch.job.results == "studies":
        return Place(StudyFolder(batch.out).work.path / "batch" / model_of(batch.job.segmenter))
    return Place(batch.out)


def run_batch(batch: Batch, watch: Watch = unwatched) -> Ended:
    """Runs a batch. What earlier runs have done is kept.

    Args:
        batch: the batch.
        watch: is called with the state whenever it has changed.

    Raises:
        InputError: the source, an option or the cluster cannot be used.
        AtlasError, WeightsError: the segmenter lacks something.
        ConflictError: another batch writes to the folder.
        StorageError: the disk is full; what is done is kept.
        UnavailableError: the PACS or the cluster's scheduler is away for too long.
    """
    if batch.cluster:
        check_cluster(batch.cluster, batch.tls)
    config = batch_config()
    place = place_of(batch)
    with place.held():
        job = replace(batch.job, parts=place.parts.resolve(), pacs=_pacs(batch))
        session = Session(job, kept_scores=kept_scores(config.read_ahead))
        session.check()
        session.job = job = session.keyed()
        found = find_items(batch.source, batch.out, follow_links=batch.follow_links)
        manifest = Manifest(place.manifest)
        publisher = _publisher(batch, place, job)
        plan = Plan.of(found, manifest, job, publisher, retry_failed=batch.retry_failed)
        try:
            _begin(manifest, plan, job, session)
            if not plan.items:
                tally = Tally(len(plan.left_out) + plan.kept, plan.kept, failed=dict(plan.left_out))
                watch(tally)
            else:
                with _engine(batch, session) as engine:
                    tally = conduct(plan, engine, manifest, publisher, job, config, watch)
            manifest.compact()
        finally:
            manifest.close()
    return Ended(tally, place.manifest)


def _begin(manifest: Manifest, plan: Plan, job: Job, session: Session) -> None:
    """Writes how results are made, and which inputs cannot be used."""
    try:
        manifest.add_run(job.key, job.about(session.keyed_provenance()))
        for entry in plan.unusable:
            manifest.add(entry)
    except OSError as error:
        raise full_disk(str(manifest.file), reason_of(error)) from error


def _publisher(batch: Batch, place: Place, job: Job) -> Publisher:
    if job.results == "studies":
        return StudiesPublisher(StudyFolder(batch.out), job)
    return FilePublisher(place, job)


@contextmanager
def _engine(batch: Batch, session: Session) -> Iterator[Engine]:
    """Yields the engine of a batch; closes it at the end."""
    engine: Engine
    if batch.cluster:
        from medsam2_atlas.batch.clusters import cluster_engine

        with cluster_engine(batch.cluster, session, workers=batch.workers, tls=batch.tls) as engine:
            yield engine
        return
    engine = SerialEngine(session) if batch.serial else PipelinedEngine(session, batch_config().read_ahead)
    try:
        yield engine
    finally:
        engine.close()


def _pacs(batch: Batch) -> str:
    """Returns the URL of the PACS that gets the results.

    Raises:
        InputError: there is none although the results go to a PACS.
    """
    if batch.job.results != "pacs":
        return ""
    if batch.job.pacs:
        return split_url(batch.job.pacs)[0]
    if not is_url(batch.source):
        raise InputError("--results pacs", "needs the URL of a PACS.", "Name it by --pacs URL.")
    return split_url(batch.source)[0]
