"""Measures studies in the background, so that the next case can be picked at once.

One thread. It takes the device for one study at a time, only when no request has been served for a while, gives way to a
request that comes, and looks again when a label is saved or a model changes. What it predicts is stored as any other
prediction: the annotator who opens the case later finds it ready.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from monailabel.interfaces.datastore import Datastore

from medsam2_atlas.atlas import score_maps
from medsam2_atlas.errors import MedSAM2AtlasError
from medsam2_atlas.labels import organ_table
from medsam2_atlas.learning import Assessment, ScoreTable, assess
from medsam2_atlas.progress import current, reporting
from medsam2_atlas.prompting import THREE, prompts_from_scores
from medsam2_atlas.studies import file_stamp
from medsam2_atlas.volume import read_volume
from models import Models
from predictions import Predictions

log = logging.getLogger(__name__)

_POLL_SECONDS = 5.0
_QUIET_SECONDS = 3.0


class _GivenWayError(Exception):
    """A person's request came: the study that was being measured comes again later."""


class Learner:
    """Keeps the table of measures up to date."""

    def __init__(
        self, models: Models, predictions: Predictions, table: ScoreTable, datastore: Callable[[], Datastore], foundation: str
    ) -> None:
        """
        Args:
            models: atlas and networks.
            predictions: makes and keeps label maps.
            table: where measures go.
            datastore: gives the server's.
            foundation: model whose label map is held against the U-Net's; `medsam2_atlas`, or `atlas` where MedSAM2 would
                take minutes a case.
        """
        self._models, self._predictions, self._table, self._datastore = models, predictions, table, datastore
        self.foundation = foundation
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._waiting, self._last_request = 0, 0.0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread; it ends with the process."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="learner", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the study that it is at."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def poke(self) -> None:
        """Something changed: look again soon."""
        self._wake.set()

    @contextmanager
    def held_off(self) -> Iterator[None]:
        """A person waits for what the block does: no new study is begun meanwhile, nor for a while after."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            self._last_request = time.monotonic()

    def versions(self) -> dict[str, str]:
        """Of atlas and models that measures depend on."""
        baseline = self._baseline()
        found = {"foundation": self.foundation, "baseline": baseline or ""}
        try:
            found["atlas"] = self._models.atlas().version
            if self.foundation != "atlas":
                found["weights"] = self._models.weights().sha256[:12]
            if baseline:
                found["unet"] = self._models.unet(baseline).version
        except MedSAM2AtlasError as error:
            found["missing"] = str(error)
        return found

    def measure_next(self) -> bool:
        """Measures one study that has no final label and no current measures; whether there was one."""
        versions, rows = self.versions(), self._table.rows()
        if "missing" in versions:
            return False
        for study in sorted(self._datastore().get_unlabeled_images()):
            image = self._predictions.image(study)
            stamp, row = file_stamp(image), rows.get(study)
            if row is None or row.image != stamp or row.versions != versions:
                try:
                    with reporting(self._give_way):
                        assessment, problem = self._assess(study), ""
                except MedSAM2AtlasError as error:
                    assessment, problem = None, str(error)
                    log.warning("%s cannot be measured: %s", study, error)
                self._table.put(study, stamp, versions, assessment, problem)
                return True
        return False

    def _assess(self, study: str) -> Assessment:
        baseline = self._baseline()
        foundation = self._predictions.get(self.foundation, study)[0].labels.array
        other = self._predictions.get(baseline, study)[0].labels.array if baseline else None
        image, atlas = read_volume(self._predictions.image(study)), self._models.atlas()
        with self._models.busy:
            scores = score_maps(image, atlas, cache=self._models.registrations, progress=current())
        prompts = prompts_from_scores(scores, organ_table(), organ_table().indices, THREE)
        return assess(image, atlas, scores, prompts, foundation, other)

    def _give_way(self, stage: str, share: float, organ: int | None = None) -> None:
        if self._waiting or self._stop.is_set():
            raise _GivenWayError

    def _baseline(self) -> str | None:
        return next((name for name in ("unet_3d", "unet_2d") if not self._predictions.tasks[name].missing()), None)

    def _run(self) -> None:
        while not self._stop.is_set():
            quiet = not self._waiting and time.monotonic() - self._last_request > _QUIET_SECONDS
            try:
                worked = quiet and self.measure_next()
            except _GivenWayError:
                worked = False
            except Exception:  # the thread must outlive whatever one study does
                log.exception("measuring studies failed; it goes on later")
                worked = False
            if not worked:
                self._wake.wait(_POLL_SECONDS)
                self._wake.clear()
