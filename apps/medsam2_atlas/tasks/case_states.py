"""The state, measures and picture of each case, for the review page."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datastores.descriptions import predictions_outdated
from datastores.pacs_datastore import PacsDatastore
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.active_learning import Row, ScoreTable
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
from medsam2_atlas.storage import FINAL, Label
from medsam2_atlas.studies import PredictionStore
from medsam2_atlas.studies.pictures import study_picture

log = logging.getLogger(__name__)

SIGNED_OFF, PROBLEM = "signed off", "problem"
_LOOK_FIRST = 3
"""Number of organs with the least certain prompts that are listed for a case."""


@dataclass(frozen=True)
class CaseState:
    """The state of a case.

    Attributes:
        study: name of the study.
        state: `signed off`, `problem` (the image or the signed-off label map cannot be used), `predicted` or `new`.
        by: author of the final label map; empty if there is none.
        made: time at which the final label map was saved; empty if there is none.
        version: version number of the final label map; 0 if there is none.
        accepted: reviewer who accepted the final label map; empty if nobody did.
        waits: whether the final label map waits for a reviewer, because the review stage is on.
        models: models with a stored prediction.
        disagreement: measure of the case, 0..1; None if not measured.
        uncertainty: as `disagreement`.
        novelty: as `disagreement`.
        why: explanation of the disagreement, or else of the uncertainty.
        problem: problems of the image, the label maps or the measuring, in words; empty if there are none.
        viewer: path of the case in OHIF, below the server's root path; empty for studies of a folder.
        tag: tag of the label map in the picture; empty if there is no picture.
        look_first: organs whose prompts have the lowest confidence, each with its confidence, 0..1.
    """

    study: str
    state: str
    by: str = ""
    made: str = ""
    version: int = 0
    accepted: str = ""
    waits: bool = False
    models: tuple[str, ...] = ()
    disagreement: float | None = None
    uncertainty: float | None = None
    novelty: float | None = None
    why: str = ""
    problem: str = ""
    viewer: str = ""
    tag: str = ""
    look_first: tuple[tuple[str, float], ...] = ()


def case_states(
    datastore: StudyDatastore, table: ScoreTable, models: tuple[str, ...], measuring: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Returns all cases: first those with problems, then those not signed off by descending disagreement, then the rest.

    Args:
        datastore: the studies; a study without a usable image is listed too.
        table: measures of the studies.
        models: names of the models; each is also the tag of its predictions.
        measuring: reasons why studies cannot be measured now, by study.

    Returns:
        The fields of a `CaseState` for each case.
    """
    facts = _Facts(
        datastore,
        PredictionStore(datastore.store.work, datastore.store),
        models,
        table.rows(),
        datastore.store.labels(),
        datastore.problems(),
        measuring or {},
        frozenset(datastore.list_images()),
    )
    cases = []
    for study in sorted({*facts.studies, *facts.problems}):
        wrong = facts.wrong(study)
        try:
            cases.append(_state(facts, study, wrong))
        except Exception as error:  # an error of one case must not hide the others
            log.exception("%s cannot be listed", study)
            cases.append(CaseState(study, PROBLEM, problem=f"{_joined(wrong)} cannot be listed ({error}).".strip()))
    cases.sort(key=lambda case: (case.state == SIGNED_OFF, case.state != PROBLEM, -(case.disagreement or 0.0), case.study))
    return [asdict(case) for case in cases]


@dataclass(frozen=True)
class _Facts:
    """The data about all cases, read once; `case_states` and the functions of the store describe the attributes."""

    datastore: StudyDatastore
    reports: PredictionStore
    models: tuple[str, ...]
    rows: Mapping[str, Row]
    labels: Mapping[str, Mapping[str, Label]]
    problems: Mapping[str, Mapping[str, str]]
    measuring: Mapping[str, str]
    studies: frozenset[str]

    def wrong(self, study: str) -> dict[str, str]:
        """Returns the problems of a case, by `image`, tag or `measuring`."""
        measuring = {"measuring": self.measuring[study]} if study in self.measuring else {}
        return {**self.problems.get(study, {}), **measuring}


def _state(facts: _Facts, study: str, wrong: dict[str, str]) -> CaseState:
    """Returns the state of a case; adds problems of its label maps and measures to `wrong`."""
    datastore, tags = facts.datastore, facts.labels.get(study, {})
    row = None if predictions_outdated(tags) else facts.rows.get(study)
    wrong |= {tag: label.problem for tag, label in tags.items() if label.problem and tag not in wrong}
    final = tags.get(FINAL)
    predicted = tuple(tag for tag in facts.models if tag in tags and not tags[tag].problem)
    # A usable label map may still have a minor problem, such as a second file of the same tag.
    signed = final is not None and not final.problem and "image" not in wrong
    broken = "image" in wrong or (FINAL in wrong and not signed) or study not in facts.studies
    if row is not None and row.problem and "measuring" not in wrong and not signed:
        wrong["measuring"] = row.problem
    values = row.values if row else {}
    return CaseState(
        study,
        PROBLEM if broken else SIGNED_OFF if signed else "predicted" if predicted else "new",
        final.version.author if final else "",
        final.version.made if final else "",
        final.version.number if final else 0,
        accepted=(final.version.accepted.get("by") or "a reviewer") if final and final.version.accepted else "",
        waits=final is not None and signed and not final.version.accepted and datastore.store.review.on,
        models=predicted,
        disagreement=values.get("disagreement"),
        uncertainty=values.get("uncertainty"),
        novelty=values.get("novelty"),
        why=(row.why.get("disagreement") or row.why.get("uncertainty") or "") if row else "",
        problem=_joined(wrong),
        viewer=viewer_path(datastore, study),
        tag="" if "image" in wrong else FINAL if signed else predicted[0] if predicted else "",
        look_first=() if signed else _least_certain(facts.reports, study, predicted),
    )


def _joined(wrong: Mapping[str, str]) -> str:
    """Joins problems into one text, each after its tag or `image`; a problem of the measuring already names the study."""
    return " ".join(text if what == "measuring" else f"{what}: {text}" for what, text in wrong.items())


def picture(datastore: StudyDatastore, study: str, models: tuple[str, ...], hu: HuRule = CHECK) -> Path:
    """Returns the file of a picture of a case, drawn once for each version of the label map.

    Args:
        datastore: the datastore with the case.
        study: name of the case.
        models: names of the models. The picture shows the final label map, or else the prediction of the first of these that
            has one.
        hu: conversion of the CT's values to HU.

    Raises:
        NotFoundError: the case is unknown, or has no label map.
    """
    return study_picture(datastore.store, study, (FINAL, *models), datastore.get_image_uri, hu)


def _least_certain(reports: PredictionStore, study: str, models: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """Returns the organs with the lowest confidence, from the first model's report that has confidences."""
    for model in models:
        try:
            known = {str(organ): float(value) for organ, value in dict(reports.report(model, study)["confidence"]).items()}
        except (KeyError, TypeError, ValueError):  # the report has no confidences, or is damaged
            continue
        if known:
            return tuple(sorted(known.items(), key=lambda entry: entry[1])[:_LOOK_FIRST])
    return ()


def viewer_path(datastore: StudyDatastore, study: str) -> str:
    """Returns the path of a case in OHIF, below the server's root path; empty if OHIF cannot show it.

    For a series of a PACS it names the series too, because the study can contain several CTs.
    """
    try:
        info = datastore.get_image_info(study)
    except MedSAM2AtlasError:  # the image was just removed, or cannot be used
        return ""
    uid = str(info.get("StudyInstanceUID", ""))
    series = f"&SeriesInstanceUIDs={study}" if isinstance(datastore, PacsDatastore) else ""
    return f"/ohif/monai-label?StudyInstanceUIDs={uid}{series}" if uid else ""
