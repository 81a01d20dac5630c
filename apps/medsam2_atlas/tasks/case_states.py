"""What a team sees of its cases: state, measures, pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datastores.descriptions import measured_before
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


@dataclass(frozen=True)
class CaseState:
    """A case. state: `signed off`, `problem` (the image or the signed-off label cannot be used), `predicted` or `new`.

    by, made, version: of the final label. accepted: who accepted it as a reviewer; empty if nobody did. waits: whether it
    waits for that, because the review stage is on. models: that have predicted. disagreement, uncertainty, novelty: measures,
    0..1, None where they have not been taken; why: in words. problem: what is wrong with the image, a label or the measuring,
    in words. viewer: path in OHIF, below the server's root path; empty for studies of a folder. tag: of the label map in the
    picture. look_first: organs whose prompts have the lowest confidence, with that confidence, 0..1.
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
    """Returns all cases: those with problems first, then those not signed off, the most disputed of them first.

    Args:
        datastore: of the studies; studies without a usable image are listed too.
        table: measures.
        models: names of the tags that models write.
        measuring: why studies cannot be measured now, by study.
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
        except Exception as error:  # one case must not hide the others
            log.exception("%s cannot be listed", study)
            cases.append(CaseState(study, PROBLEM, problem=f"{_joined(wrong)} cannot be listed ({error}).".strip()))
    cases.sort(key=lambda case: (case.state == SIGNED_OFF, case.state != PROBLEM, -(case.disagreement or 0.0), case.study))
    return [asdict(case) for case in cases]


@dataclass(frozen=True)
class _Facts:
    """Facts about all cases; `case_states` and the store's functions tell what each attribute holds."""

    datastore: StudyDatastore
    reports: PredictionStore
    models: tuple[str, ...]
    rows: Mapping[str, Row]
    labels: Mapping[str, Mapping[str, Label]]
    problems: Mapping[str, Mapping[str, str]]
    measuring: Mapping[str, str]
    studies: frozenset[str]

    def wrong(self, study: str) -> dict[str, str]:
        """Returns the problems of a case by `image`, tag or `measuring`."""
        measuring = {"measuring": self.measuring[study]} if study in self.measuring else {}
        return {**self.problems.get(study, {}), **measuring}


def _state(facts: _Facts, study: str, wrong: dict[str, str]) -> CaseState:
    """Returns the state of a case; adds problems of its label maps and measures to `wrong`."""
    datastore, tags = facts.datastore, facts.labels.get(study, {})
    row = None if measured_before(tags) else facts.rows.get(study)
    wrong |= {tag: label.problem for tag, label in tags.items() if label.problem and tag not in wrong}
    final = tags.get(FINAL)
    predicted = tuple(tag for tag in facts.models if tag in tags and not tags[tag].problem)
    # A label that counts may still have a minor problem, such as a second file beside it.
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
        viewer=_viewer(datastore, study),
        tag="" if "image" in wrong else FINAL if signed else predicted[0] if predicted else "",
        look_first=() if signed else _least_sure(facts.reports, study, predicted),
    )


def _joined(wrong: Mapping[str, str]) -> str:
    """Returns problems in one text, each after its tag or `image`; those of the measurement already name the study."""
    return " ".join(text if what == "measuring" else f"{what}: {text}" for what, text in wrong.items())


def picture(datastore: StudyDatastore, study: str, models: tuple[str, ...], hu: HuRule = CHECK) -> Path:
    """Returns a case with its final label map, or else the first model's; drawn once for each version.

    `hu` is the rule by which values become HU.

    Raises:
        NotFoundError: no such case, or it has no label map.
    """
    return study_picture(datastore.store, study, (FINAL, *models), datastore.get_image_uri, hu)


def _least_sure(reports: PredictionStore, study: str, models: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    for model in models:
        try:
            known = {str(organ): float(sure) for organ, sure in dict(reports.report(model, study)["confidence"]).items()}
        except (KeyError, TypeError, ValueError):  # no confidences, or a damaged report
            continue
        if known:
            return tuple(sorted(known.items(), key=lambda entry: entry[1])[:_LOOK_FIRST])
    return ()


def _viewer(datastore: StudyDatastore, study: str) -> str:
    try:
        uid = str(datastore.get_image_info(study).get("StudyInstanceUID", ""))
    except MedSAM2AtlasError:  # its image was just removed, or cannot be used
        return ""
    return f"/ohif/monai-label?StudyInstanceUIDs={uid}" if uid else ""
