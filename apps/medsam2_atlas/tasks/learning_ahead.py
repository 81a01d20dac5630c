"""Measures series of a PACS ahead of need: only the next few, whose files take limited space.

A series is *ready* if it has current measures and no final label map. As long as there are such series, the strategies that use
measures offer no others. So no series is fetched while enough are ready; when one is signed off, another one is fetched.

What learning has fetched is marked in the information of its image. If that takes too much space, series that nobody needs are
deleted, the oldest first; the PACS still has them. A series is kept while it is ready or assigned, while somebody has it open,
and while a training, a batch or a scoring runs; also if a person has a label map or a draft of it. Learning runs only while no
job does. If the space does not suffice, nothing more is fetched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datastores.pacs_datastore import PacsDatastore
from medsam2_atlas.active_learning import Row
from medsam2_atlas.base.errors import MedSAM2AtlasError

log = logging.getLogger(__name__)

_MARK, _LEARNING = "fetched_for", "learning"
TRIES = 3
"""Max number of series that are tried in a row if fetching fails."""


@dataclass(frozen=True)
class Plan:
    """The series to measure.

    Attributes:
        studies: the series in the order in which they are tried.
        ready: number of series that are ready.
        goal: number of series that should be ready.
    """

    studies: list[str]
    ready: int
    goal: int


class LearningAhead:
    """Chooses the series to measure, and limits the space of those that learning has fetched."""

    def __init__(
        self, datastore: Callable[[], PacsDatastore], count: int, max_bytes: int, work_running: Callable[[], bool]
    ) -> None:
        """Fetches nothing yet.

        Args:
            datastore: returns the series of the PACS.
            count: number of series that should be ready.
            max_bytes: max size of the fetched series without a final label map, in bytes.
            work_running: returns whether a training, a batch or a scoring is running.
        """
        self._datastore, self._count, self._max_bytes, self._work_running = datastore, count, max_bytes, work_running
        self._ready: frozenset[str] = frozenset()
        self._full = False
        self._unlabelled: frozenset[str] = frozenset()

    def plan(self, unlabelled: list[str], rows: Mapping[str, Row], versions: Mapping[str, str]) -> Plan:
        """Returns which series to measure: fetched ones first, then those that are assigned to somebody, then by name.

        Args:
            unlabelled: all series without a final label map.
            rows: the measures by series.
            versions: the present versions of the models.
        """
        store = self._datastore().store
        here, assigned = store.images(), store.assignments.all()
        current = {study for study in unlabelled if study in rows and rows[study].current(versions)}
        self._ready = frozenset(study for study in current if not rows[study].problem and study in here)
        self._unlabelled, goal = frozenset(unlabelled), min(self._count, len(unlabelled))
        if len(self._ready) >= goal:
            return Plan([], goal, goal)
        left = [study for study in unlabelled if study not in current]
        left.sort(key=lambda study: (study not in here, study not in assigned, study))
        return Plan(left, len(self._ready), goal)

    def prepare(self, study: str) -> bool:
        """Makes room for a series if it has to be fetched; returns whether there is room."""
        if study in self._datastore().store.images():
            return True
        sizes = self._sizes()
        total = sum(sizes.values())
        for name, size in sizes.items():
            if total < self._max_bytes:
                break
            if self._dropped(name):
                total -= size
        if total >= self._max_bytes and not self._full:
            log.warning(
                "learning fetches no more series: those that it has fetched take %.0f MB (server_learn_mb)", total / 1e6
            )
        self._full = total >= self._max_bytes
        return not self._full

    def fetched(self, study: str) -> None:
        """Marks a series that learning has just fetched."""
        self._datastore().update_image_info(study, {_MARK: _LEARNING})

    def is_here(self, study: str) -> bool:
        """Returns whether a series is on this server already."""
        return study in self._datastore().store.images()

    def _sizes(self) -> dict[str, int]:
        """Returns the size in bytes of each series that learning has fetched and nobody has signed off, the oldest first."""
        datastore = self._datastore()
        marked: dict[str, Any] = {
            study: image.file
            for study, image in datastore.store.images().items()
            if study in self._unlabelled and image.info.get(_MARK) == _LEARNING
        }
        ages = {study: file.stat().st_mtime for study, file in marked.items() if file.exists()}
        return {study: datastore.fetched_bytes(study) for study in sorted(ages, key=ages.__getitem__)}

    def _dropped(self, study: str) -> bool:
        """Deletes a series unless somebody needs it; returns whether it was deleted."""
        if study in self._ready:
            return False
        try:
            dropped = self._datastore().drop_fetched(study, lambda: self._needed(study))
        except MedSAM2AtlasError as error:
            log.warning("%s cannot be deleted to make room: %s", study, error)
            return False
        if dropped:
            log.info("%s was deleted to make room; it is fetched from the PACS again when it is needed", study)
        return dropped

    def _needed(self, study: str) -> bool:
        """Returns whether somebody has a series open or was assigned it, or work in another process may be reading it."""
        datastore = self._datastore()
        opened = datastore.claims.all().opened(study) or study in datastore.store.assignments.all()
        return bool(opened) or self._work_running()
