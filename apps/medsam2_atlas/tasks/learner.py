"""Measures studies in the background, so that the next case can be chosen at once.

One thread measures one study at a time, only while no request has been served for a while. It stops the measurement when a
request arrives, and checks for new work when a label map is saved or a model changes. Its predictions are stored like all
others, so that they are ready when an annotator opens the case.

A study that fails does not stop the others. An error of its measurement is recorded with the image's stamp and the models; the
study is not tried again until one of them changes. A study whose image is unavailable (its file is missing or cannot be read,
the PACS does not answer, the disk is full) is tried again later, with an increasing delay.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from monailabel.interfaces.datastore import Datastore

from medsam2_atlas.active_learning import Assessment, ScoreTable, active_learning_config, assess
from medsam2_atlas.base.configuration import differing
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, StorageError
from medsam2_atlas.base.progress import reporting
from medsam2_atlas.imaging.hounsfield import CHECK, read_ct
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.prompting import prompting_config, prompts_from_scores
from medsam2_atlas.scoremaps import fusion_config
from medsam2_atlas.segmenters.changed_settings import foundation_settings
from medsam2_atlas.studies import file_stamp
from medsam2_atlas.studies.models import Models
from tasks.learning_ahead import TRIES, LearningAhead
from tasks.predictions import Predictions
from tasks.retries import Retries

log = logging.getLogger(__name__)

_POLL_SECONDS = 5.0
_QUIET_SECONDS = 3.0
_STOP_SECONDS = 5.0
_ALL = ""
"""Key in `Retries` of a failure that concerns all studies."""


def _changed_settings() -> dict[str, str]:
    """Returns the entry `settings`: the settings that measures depend on and that differ from their defaults, as JSON."""
    rooms = {"fusion": differing(fusion_config()), "active_learning": active_learning_config().changed()}
    changed = foundation_settings(unet=True)["settings"] | {room: settings for room, settings in rooms.items() if settings}
    return {"settings": json.dumps(changed, sort_keys=True)}


class _StoppedError(Exception):
    """A request has arrived, so the measurement was stopped; the study is measured again later."""


class Learner:
    """The background thread that keeps the table of measures up to date."""

    def __init__(
        self,
        models: Models,
        predictions: Predictions,
        table: ScoreTable,
        datastore: Callable[[], Datastore],
        foundation: str,
        baseline: str = "",
        ahead: LearningAhead | None = None,
    ) -> None:
        """Prepares the thread; `start` starts it.

        Args:
            models: atlas and networks.
            predictions: computes and stores the label maps.
            table: table to write the measures to.
            datastore: returns the server's datastore.
            foundation: name of the foundation model.
            baseline: name of the model to compare it with; if empty, the first trained model that can run.
            ahead: chooses the series of a PACS to measure; None for a folder, of which all studies are measured.
        """
        self._models, self._predictions, self._table, self._datastore = models, predictions, table, datastore
        self.foundation, self._named_baseline = foundation, baseline
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._waiting, self._last_request = 0, 0.0
        self._thread: threading.Thread | None = None
        self._later = Retries()
        self._progress, self._ahead = (0, 0), ahead

    def start(self) -> None:
        """Starts the thread, which ends with the process at the latest."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="learner", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stops the thread at the current study's next progress report; waits for that for a few seconds at most."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)
            if self._thread.is_alive():
                log.warning("the measurement of a study does not stop; it ends with the process")

    def notify(self) -> None:
        """Notifies the thread of a change, so that it checks for new work soon."""
        self._wake.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Interrupts measuring for the duration of the block, which serves a request, and for a few seconds after it."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            self._last_request = time.monotonic()

    @property
    def idle(self) -> bool:
        """Whether no request has been served for a few seconds."""
        return not self._waiting and time.monotonic() - self._last_request > _QUIET_SECONDS

    def problems(self) -> dict[str, str]:
        """Returns the reasons why studies cannot be measured now, by study; these studies are tried again later."""
        return {study: problem for study, problem in self._later.problems().items() if study != _ALL}

    def progress(self) -> tuple[int, int]:
        """Returns how many studies have current measures, and how many shall have them, when new ones were searched last."""
        return self._progress

    def versions(self) -> dict[str, str]:
        """Returns the models, versions and settings that measures depend on; `missing` has the reason if a model cannot run."""
        baseline = self._baseline()
        found = {"foundation": self.foundation, "baseline": baseline or ""}
        if self._models.hu != CHECK:  # the default is not recorded, so that measures of earlier program versions stay valid
            found["hu"] = str(self._models.hu)
        found |= _changed_settings()
        try:
            found["atlas"] = self._models.atlas().version
            weights = self._predictions.segmenter(self.foundation).version()
            if weights:
                found["weights"] = weights
            if baseline:
                found["unet"] = self._predictions.segmenter(baseline).version()
        except MedSAM2AtlasError as error:
            found["missing"] = str(error)
        return found

    def measure_next(self) -> bool:
        """Measures one study that has no final label map and no current measures; returns whether there was such a study."""
        versions, rows = self.versions(), self._table.rows()
        unlabelled = studies = sorted(self._datastore().get_unlabeled_images())
        if self._ahead is None:
            current = sum(study in rows and rows[study].current(versions) for study in studies)
            self._progress = (current, len(studies))
        else:
            plan = self._ahead.plan(studies, rows, versions)
            studies, self._progress = plan.studies, (plan.ready, plan.goal)
        if "missing" in versions:
            return False
        self._later.keep({_ALL, *unlabelled})
        failures = 0
        for study in studies:
            if self._stop.is_set() or not self._later.due(study):
                continue
            try:
                image = self._image(study)
                if image is None:
                    return False
                stamp = _stamp(image)
            except Exception as error:  # noqa: BLE001 - an unavailable image must not stop the others
                if self._ahead is not None and isinstance(error, InputError):  # not fetched again before the models change
                    self._table.put(study, "", versions, None, str(error), unusable=True)
                else:
                    self._put_off(study, error)
                failures += 1
                if self._ahead is not None and failures >= TRIES:  # it may have fetched many series in vain
                    return False
                continue
            row = rows.get(study)
            if row is None or row.image != stamp or not row.current(versions):
                self._measure(study, stamp, versions)
                return True
            self._later.succeeded(study)
        return False

    def _image(self, study: str) -> Path | None:
        """Returns the image of a study; fetches it from the PACS if there is room for it, else returns None."""
        if self._ahead is None or self._ahead.is_here(study):
            return self._predictions.image(study)
        if not self._ahead.prepare(study):
            return None
        image = self._predictions.image(study)
        self._ahead.fetched(study)
        return image

    def _measure(self, study: str, stamp: str, versions: dict[str, str]) -> None:
        """Measures a study and records its measures, or the reason why there are none."""
        assessment, problem, unusable = None, "", False
        try:
            with reporting(self._check_requests):
                assessment = self._assess(study)
        except _StoppedError:
            raise
        except (OSError, StorageError) as error:  # an error of the disk or the PACS, not of the study
            self._put_off(study, error)
            return
        except Exception as error:
            if self._changed(study, stamp):
                self._put_off(study, error)
                return
            if isinstance(error, MedSAM2AtlasError):
                problem, unusable = str(error), self._is_of_image(study, error)
                log.warning("%s cannot be measured until its image or the models change: %s", study, problem)
            else:
                problem = f"{study}: cannot be measured ({type(error).__name__}: {error}). See the server's log."
                log.exception("%s cannot be measured until its image or the models change", study)
        self._table.put(study, stamp, versions, assessment, problem, unusable=unusable)
        if self._changed(study, stamp):  # the study may have been erased while it was measured
            self._table.drop(study)
        self._later.succeeded(study)

    def _is_of_image(self, study: str, error: MedSAM2AtlasError) -> bool:
        """Returns whether an error says that the image cannot be used; people can still work on it if only a model fails."""
        try:
            image = self._predictions.image(study)
        except (MedSAM2AtlasError, OSError):  # it was just removed, so the error is about nothing that is still there
            return False
        return isinstance(error, InputError) and error.subject in (study, image.name, str(image))

    def _changed(self, study: str, stamp: str) -> bool:
        """Returns whether the image was removed or has changed since its stamp was taken."""
        try:
            return _stamp(self._predictions.image(study)) != stamp
        except Exception:  # noqa: BLE001 - an image that can no longer be opened has changed
            return True

    def _put_off(self, study: str, error: Exception) -> None:
        """Records a temporary failure, so that the study is tried again later."""
        self._later.failed(study, str(error))
        log.warning("%s cannot be measured now; it is tried again later: %s", study, error)

    def _assess(self, study: str) -> Assessment:
        """Measures a study from its predictions by foundation and baseline, its score maps and its prompts."""
        baseline = self._baseline()
        foundation = self._predictions.get(self.foundation, study)[0]
        other = self._predictions.get(baseline, study)[0] if baseline else None
        image, atlas = read_ct(self._predictions.image(study), self._models.hu), self._models.atlas()
        with self._models.busy:
            scores = self._models.score_maps(image, atlas)  # cached if the foundation model has just run
        prompts = prompts_from_scores(scores, organ_table(), organ_table().indices, prompting_config().three_boxes)
        if other is None:
            return assess(image, atlas, scores, prompts, foundation.labels.array)
        common = set(foundation.report.organ_numbers) & set(other.report.organ_numbers)  # a user's model may have few organs
        return assess(image, atlas, scores, prompts, foundation.labels.array, other.labels.array, sorted(common))

    def _check_requests(self, stage: str, share: float, organ: int | None = None) -> None:
        """Interrupts a measurement if a request is being served or the thread should stop; called with its progress."""
        if self._waiting or self._stop.is_set():
            raise _StoppedError

    def _baseline(self) -> str | None:
        """Returns the name of the model to compare the foundation with; None if no such model can run."""
        if self._named_baseline:
            return None if self._predictions.missing(self._named_baseline) else self._named_baseline
        return next(iter(self._predictions.available("trained")), None)

    def _run(self) -> None:
        while not self._stop.is_set():
            worked = False
            try:
                worked = self.idle and self._later.due(_ALL) and self.measure_next()
            except _StoppedError:
                pass
            except Exception as error:  # an error of all studies, such as an unavailable PACS, must not end the thread
                self._later.failed(_ALL, str(error))
                log.exception("studies cannot be measured now; they are tried again later")
            else:
                if worked:
                    self._later.succeeded(_ALL)
            if not worked:
                self._wake.wait(_POLL_SECONDS)
                self._wake.clear()


def _stamp(image: Path) -> str:
    """Returns the stamp of an image after a check that the image can be opened.

    Raises:
        OSError: the image cannot be opened. A change of its permissions would not change the stamp, so a stamp must not be
            recorded for such an image.
    """
    if not image.is_dir():
        image.open("rb").close()
    return file_stamp(image)
