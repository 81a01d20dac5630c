"""The state, measures and label maps of each case, kept in memory and computed again only for cases that have changed.

Concurrency contract. One lock guards the table. A thread that holds it reads the index, and the reports of cases that have
changed. Answers are not changed afterwards, so callers may use them without the lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from datastores.descriptions import predictions_outdated
from datastores.pacs_datastore import PacsDatastore
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.active_learning import Row, ScoreTable
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.dicom.texts import date, line
from medsam2_atlas.storage import FINAL, Image, Label, Person, Version, drawer_of
from medsam2_atlas.studies import PredictionStore
from tasks.present_images import is_of_present

log = logging.getLogger(__name__)

NEW, PREDICTED, WAITS, RETURNED, SIGNED_OFF, PROBLEM = (
    "new",
    "predicted",
    "waits for review",
    "returned",
    "signed off",
    "problem",
)
NEEDS_A_LOOK = 0.5
"""Confidence below which an organ has to be checked; the annotator's panel shows it in the colour of a warning."""
_LOOK_FIRST = 3
"""Number of organs with the least certain prompts that are listed for a case."""
_MAX_TEXT = 256
"""Max number of characters of a text from a PACS or a client."""


@dataclass(frozen=True)
class CaseState:
    """The state of a case.

    Attributes:
        study: name of the study.
        state: `signed off`; before that, with the review stage on, `waits for review` or `returned` (by a reviewer). `problem`
            (the signed-off label map cannot be used, or the image, as far as somebody has tried), `predicted` or `new`.
        patient: name and id of the patient; the name of the study if they are unknown.
        date: date of the study, YYYY-MM-DD; empty if it is unknown.
        description: description of the series and the study; the name of the file if there is none.
        by: author of the final label map; empty if there is none.
        by_id: unique id of that author; empty if it is unknown.
        made: time at which the final label map was saved; empty if there is none.
        done: time at which a case became `signed off`: when it was accepted, or else saved; empty if it is not.
        predicted: time at which the label map of the first of `models` was saved; empty if there is none.
        version: version number of the final label map; 0 if there is none.
        accepted: reviewer who accepted the final label map; empty if nobody did.
        drawer: who drew a final label map that waits for a reviewer; its author may have restored it. None in other states.
        returned: with what a reviewer returned the final label map (`by`, `at`, `comment`); empty if nobody did.
        models: models with a stored prediction.
        disagreement: measure of the case, 0..1; None if not measured.
        uncertainty: as `disagreement`.
        novelty: as `disagreement`.
        why: explanation of the disagreement, or else of the uncertainty.
        problem: problems of the image, the label maps or the measuring, in words; empty if there are none.
        tag: tag of the label map in the picture; empty if there is none.
        confidence: mean confidence of the organs, 0..1; None if it is unknown.
        look_first: organs with the lowest confidence, each with its confidence, 0..1; empty if signed off.
        check: organs whose confidence is below `NEEDS_A_LOOK`, each with its confidence; empty if signed off.
        here: whether its image is on this server and can be used.
        study_uid: Study Instance UID of a series of a PACS; empty for a folder.
        text: all texts that a search looks in, without regard to case.
    """

    study: str
    state: str
    patient: str = ""
    date: str = ""
    description: str = ""
    by: str = ""
    by_id: str = ""
    made: str = ""
    done: str = ""
    predicted: str = ""
    version: int = 0
    accepted: str = ""
    drawer: Person | None = None
    returned: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    disagreement: float | None = None
    uncertainty: float | None = None
    novelty: float | None = None
    why: str = ""
    problem: str = ""
    tag: str = ""
    confidence: float | None = None
    look_first: tuple[tuple[str, float], ...] = ()
    check: tuple[tuple[str, float], ...] = ()
    here: bool = False
    study_uid: str = ""
    text: str = ""


class CaseTable:
    """The states of all cases. Thread-safe."""

    def __init__(self, datastore: StudyDatastore, table: ScoreTable, models: tuple[str, ...]) -> None:
        """Reads nothing yet.

        Args:
            datastore: the studies; a study without a usable image is listed too.
            table: measures of the studies.
            models: names of the models; each is also the tag of its predictions.
        """
        self._datastore, self._table, self._models = datastore, table, models
        self._reports = PredictionStore(datastore.work, datastore.store)
        self._lock = threading.Lock()
        self._known: dict[str, tuple[_Facts, CaseState]] = {}
        self._compared: dict[str, tuple[Row, Image | None, bool]] = {}
        self._states: Mapping[str, CaseState] = {}
        self._sources: tuple[Any, ...] = ()

    def states(self, measuring: Mapping[str, str] | None = None) -> Mapping[str, CaseState]:
        """Returns the states of all cases by study, sorted by name; the same object until a case changes.

        Args:
            measuring: reasons why studies cannot be measured now, by study.
        """
        with self._lock:
            images, labels = self._datastore.store.images(), self._datastore.store.labels()
            series, scores = _listed(self._datastore), self._table.rows()
            reports = {model: self._reports.stamps(model) for model in self._models}
            wrong = {study: dict(problems) for study, problems in self._datastore.problems().items()}
            for study, problem in (measuring or {}).items():
                wrong.setdefault(study, {})["measuring"] = problem
            reviewed = self._datastore.store.review.on
            sources = (images, labels, series, scores, *reports.values(), reviewed)
            if _same(sources, self._sources[:-1]) and self._sources[-1] == wrong:
                return self._states
            known: dict[str, tuple[_Facts, CaseState]] = {}
            for study in sorted({*(images if series is None else series), *wrong}):
                tags = labels.get(study, {})
                facts = _Facts(
                    study,
                    images.get(study),
                    tags,
                    (series or {}).get(study),
                    scores.get(study),
                    wrong.get(study, {}),
                    tuple(reports[model].get(study) for model in self._models),
                    reviewed,
                    study in images if series is None else study in series,
                    self._is_present(scores.get(study), images.get(study)),
                )
                old = self._known.get(study)
                known[study] = old if old is not None and old[0] == facts else (facts, self._state(facts))
            self._known, self._sources = known, (*sources, wrong)
            self._compared = {study: found for study, found in self._compared.items() if study in known}
            self._states = {study: state for study, (_, state) in known.items()}
            return self._states

    def _is_present(self, row: Row | None, image: Image | None) -> bool:
        """Returns whether a problem of the measuring is about the present image; reads the file's state once for both."""
        if row is None or not row.problem:
            return True
        known = self._compared.get(row.study)
        if known is None or known[0] is not row or known[1] is not image:
            known = self._compared[row.study] = (row, image, is_of_present(row, image))
        return known[2]

    def _state(self, facts: _Facts) -> CaseState:
        """Returns the state of a case. An error of one case must not hide the others."""
        try:
            state = _state(facts, self._models, self._reports)
            return replace(state, drawer=self._drawer(state)) if state.state == WAITS else state
        except Exception as error:
            log.exception("%s cannot be listed", facts.study)
            problem = f"{_joined(facts.wrong)} cannot be listed ({error}).".strip()
            return CaseState(facts.study, PROBLEM, patient=facts.study, problem=problem, text=facts.study.casefold())

    def _drawer(self, state: CaseState) -> Person:
        author = Person(state.by, state.by_id)
        if state.version <= 1:
            return author
        try:
            versions = self._datastore.store.versions(state.study, FINAL)
        except MedSAM2AtlasError:  # the study was just removed, or an earlier version's record is damaged
            return author
        known = [version for version in versions if version.number <= state.version]
        return drawer_of(known) if known else author


@dataclass(frozen=True)
class _Facts:
    """What the state of a case is derived from.

    Attributes:
        study: name of the study.
        image: its image; None if it cannot be used, or has not been fetched.
        tags: its label maps by tag.
        series: its attributes in the list of the PACS; None for a folder.
        row: its measures.
        wrong: its problems, by `image`, tag or `measuring`.
        reports: stamps of its predictions' reports.
        reviewed: whether the review stage is on.
        listed: whether it is a study, and not only a file with a problem.
        present: whether the problem of `row` is about the present image.
    """

    study: str
    image: Image | None
    tags: Mapping[str, Label]
    series: Mapping[str, str] | None
    row: Row | None
    wrong: Mapping[str, str]
    reports: tuple[Any, ...]
    reviewed: bool
    listed: bool
    present: bool = True


def _state(facts: _Facts, models: tuple[str, ...], reports: PredictionStore) -> CaseState:
    tags, wrong = facts.tags, dict(facts.wrong)
    row = None if predictions_outdated(tags) else facts.row
    wrong |= {tag: label.problem for tag, label in tags.items() if label.problem and tag not in wrong}
    final = tags.get(FINAL)
    predicted = tuple(tag for tag in models if tag in tags and not tags[tag].problem)
    # A usable label map may still have a minor problem, such as a second file of the same tag.
    signed = final is not None and not final.problem and "image" not in wrong
    unmeasured = row.problem if row is not None and facts.present else ""
    # Only a measurement opens a CT that nobody has opened yet. If there is a prediction, the CT could be read.
    unreadable = row is not None and bool(unmeasured) and row.unusable and not signed and not predicted
    broken = "image" in wrong or (FINAL in wrong and not signed) or not facts.listed or unreadable
    if unmeasured and not wrong.keys() & {"measuring", "image"} and not signed:
        wrong["measuring"] = unmeasured
    values = row.values if row else {}
    waits = final is not None and signed and not final.version.accepted and facts.reviewed
    returned: Mapping[str, str] = final.version.returned if final is not None and signed else {}
    done = RETURNED if returned else WAITS if waits else SIGNED_OFF
    confidences = _confidences(reports, facts.study, predicted)
    sure = () if signed else tuple(sorted(confidences.items(), key=lambda entry: entry[1]))
    patient, day, description = _about(facts)
    return CaseState(
        facts.study,
        PROBLEM if broken else done if signed else PREDICTED if predicted else NEW,
        patient,
        day,
        description,
        final.version.author if final else "",
        final.version.author_id if final else "",
        final.version.made if final else "",
        predicted=tags[predicted[0]].version.made if predicted else "",
        version=final.version.number if final else 0,
        done=_done(final.version) if final and signed and not waits and not returned else "",
        accepted=(final.version.accepted.get("by") or "a reviewer") if final and final.version.accepted else "",
        returned=returned,
        models=predicted,
        disagreement=values.get("disagreement"),
        uncertainty=values.get("uncertainty"),
        novelty=values.get("novelty"),
        why=(row.why.get("disagreement") or row.why.get("uncertainty") or "") if row else "",
        problem=_joined(wrong),
        tag="" if "image" in wrong else FINAL if signed else predicted[0] if predicted else "",
        confidence=sum(confidences.values()) / len(confidences) if confidences else None,
        look_first=sure[:_LOOK_FIRST],
        check=tuple(entry for entry in sure if entry[1] < NEEDS_A_LOOK),
        here=facts.image is not None,
        study_uid=(facts.series or {}).get("StudyInstanceUID", ""),
        text=" ".join((patient, description, day, facts.study)).casefold(),
    )


def _done(version: Version) -> str:
    return version.accepted.get("at") or version.made


def _listed(datastore: StudyDatastore) -> Mapping[str, Mapping[str, str]] | None:
    """Returns the last list of a PACS; None for a folder, and if the PACS has never been listed."""
    return datastore.listed() if isinstance(datastore, PacsDatastore) else None


def _about(facts: _Facts) -> tuple[str, str, str]:
    """Returns patient, date and description. A client or a PACS may have chosen any text."""
    info = {**(facts.image.info if facts.image else {}), **{k: v for k, v in (facts.series or {}).items() if v}}
    texts = {key: line(info[key], _MAX_TEXT) if isinstance(info.get(key), (str, int, float)) else "" for key in _ABOUT}
    name = " ".join(texts["PatientName"].partition("=")[0].replace("^", " ").split())
    patient = " · ".join(text for text in (name, texts["PatientID"]) if text) or facts.study
    described = dict.fromkeys(text for text in (texts["SeriesDescription"], texts["StudyDescription"]) if text)
    description = " · ".join(described) or (facts.image.file.name if facts.image and facts.series is None else "")
    day = date(texts["StudyDate"])
    return patient, f"{day[:4]}-{day[4:6]}-{day[6:]}" if day else "", description


_ABOUT = ("PatientName", "PatientID", "StudyDate", "SeriesDescription", "StudyDescription")


def _joined(wrong: Mapping[str, str]) -> str:
    """Joins problems into one text, each after its tag or `image`; a problem of the measuring already names the study."""
    return " ".join(text if what == "measuring" else f"{what}: {text}" for what, text in wrong.items())


def _same(some: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _confidences(reports: PredictionStore, study: str, models: tuple[str, ...]) -> dict[str, float]:
    """Returns the confidence of each organ, from the first model's report that has confidences."""
    for model in models:
        try:
            known = {str(organ): float(value) for organ, value in dict(reports.report(model, study)["confidence"]).items()}
        except (KeyError, TypeError, ValueError, OverflowError):  # the report has no confidences, or is damaged
            continue
        known = {organ: value for organ, value in known.items() if 0 <= value <= 1}  # not NaN, which no order has
        if known:
            return known
    return {}


def viewer_path(datastore: StudyDatastore, study: str) -> str:
    """Returns the path of a case in OHIF, below the server's root path; empty if OHIF cannot show it.

    For a series of a PACS it names the series too, because the study can contain several CTs.
    """
    try:
        info = datastore.get_image_info(study)
    except MedSAM2AtlasError:  # the image was just removed, or cannot be used
        return ""
    uid = str(info.get("StudyInstanceUID", ""))
    return ohif_path(uid, study if isinstance(datastore, PacsDatastore) else "") if uid else ""


def ohif_path(study_uid: str, series_uid: str = "") -> str:
    """Returns the path of a DICOM study, or of one of its series, in OHIF."""
    series = f"&SeriesInstanceUIDs={series_uid}" if series_uid else ""
    return f"/ohif/monai-label?StudyInstanceUIDs={study_uid}{series}"
