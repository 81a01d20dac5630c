"""Runs two segmenters over all studies, taking what is stored already, and collects how far they agree."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, problem_of
from medsam2_atlas.base.files import write_json
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.evaluation import OrganScore, compare_labels
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import read_labels
from medsam2_atlas.segmenters.base import Segmentation, Segmenter
from medsam2_atlas.segmenters.registry import model_of
from medsam2_atlas.storage import FINAL, Study, StudyFolder
from medsam2_atlas.studies import PredictionStore
from medsam2_atlas.studies.models import Models
from medsam2_atlas.studies.runner import Runner

log = logging.getLogger(__name__)

_POINT = {"labelled", "models", "agreement", "studies"}


@dataclass(frozen=True)
class CaseComparison:
    """One study. scores: first against second. final: per model, its scores against the signed-off label."""

    study: str
    scores: dict[int, OrganScore]
    final: dict[str, dict[int, OrganScore]]
    seconds: dict[str, float]
    watt_hours: dict[str, float | None]

    @property
    def mean_dice(self) -> float:
        """Between the two models, over the organs that either found."""
        return float(np.mean([score.dice for score in self.scores.values()])) if self.scores else float("nan")


@dataclass
class Comparison:
    """All studies.

    problems: those that could not be compared. history: agreement over the number of labelled cases. hu: how the values of CTs
    became HU.
    """

    models: tuple[str, str]
    cases: list[CaseComparison] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    hu: HuRule = CHECK

    def agreement(self, organ: int | None = None) -> float | None:
        """Returns the mean Dice between the two models, of one organ or over all."""
        if organ is None:
            return _mean([case.mean_dice for case in self.cases if case.scores])
        return _mean([case.scores[organ].dice for case in self.cases if organ in case.scores])

    def against_final(self, model: str, organ: int | None = None) -> float | None:
        """Mean Dice of a model to signed-off labels, of one organ or over all; organs that a label lacks do not count."""
        cases = [case.final[model] for case in self.cases if model in case.final]
        if organ is None:
            return _mean([float(np.mean([s.dice for s in scores.values()])) for scores in cases if scores])
        return _mean([scores[organ].dice for scores in cases if organ in scores])

    def seconds(self, model: str) -> float:
        """Returns the median time of a case."""
        return float(np.median([case.seconds[model] for case in self.cases])) if self.cases else float("nan")


def compare_studies(
    folder: StudyFolder,
    contestants: tuple[Segmenter, Segmenter],
    models: Models,
    progress: Progress = silent,
    *,
    strict: bool = False,
) -> Comparison:
    """Compares two segmenters on every study of a folder; a study that fails is listed with its problem.

    Args:
        folder: of the studies; results are stored there.
        contestants: of different models, since each model's results have one tag.
        models: whose ladder and HU rule are used.
        progress: called with the fraction completed.
        strict: raise the error of the first study that fails.

    Raises:
        InputError: both belong to one model; if `strict`, the first study that fails.
    """
    tags = (model_of(contestants[0].name), model_of(contestants[1].name))
    if tags[0] == tags[1]:
        raise InputError(contestants[1].name, f"is stored in the place of {contestants[0].name}.", "Compare two models.")
    folder.store.audit()
    runner = Runner(models, lambda: PredictionStore(folder.work, folder.store))
    result = Comparison(tags, hu=models.hu)
    marks: set[str] = set()
    result.problems = _doubts(folder)
    if strict and result.problems:
        raise InputError(*next(iter(result.problems.items())))
    studies = folder.studies()
    for number, study in enumerate(studies):
        try:
            results = {
                tag: runner.get(contestant, study.name, study.image).segmentation
                for tag, contestant in zip(tags, contestants, strict=True)
            }
            result.cases.append(_compared(study, results))
            marks |= {s.report.mark for s in results.values() if s.report.mark}
        except MedSAM2AtlasError as error:
            if strict:
                raise
            result.problems[study.name] = str(error)
        except Exception as error:  # one study that fails must not stop the comparison of the others
            if strict:
                raise InputError(study.image, f"cannot be compared: {problem_of(error)}.") from error
            result.problems[study.name] = f"{type(error).__name__}: {error}"
            log.exception("%s cannot be compared", study.name)
        progress("studies", (number + 1) / len(studies))
    result.marks = sorted(marks)
    result.history = _remembered(folder, result)
    return result


def _doubts(folder: StudyFolder) -> dict[str, str]:
    """Returns images that are left out, and signed-off label maps that models are not compared with, by study."""
    found = {}
    for study, wrong in folder.store.problems().items():
        if "image" in wrong:
            found[study] = wrong["image"]
        elif FINAL in wrong:
            found[study] = f"the label map under {FINAL} {wrong[FINAL]} The models are not compared with it."
    return found


def _compared(study: Study, results: Mapping[str, Segmentation]) -> CaseComparison:
    first, second = (result.labels for result in results.values())
    known = {name: result.report.organ_numbers for name, result in results.items()}
    scores = compare_labels(first, second, [k for k in organ_table().indices if all(k in organs for organs in known.values())])
    final: dict[str, dict[int, OrganScore]] = {}
    if study.final is not None:
        truth = read_labels(study.final, first)
        annotated = [k for k in organ_table().indices if (truth.array == k).any()]
        final = {
            name: compare_labels(result.labels, truth, [k for k in annotated if k in known[name]])
            for name, result in results.items()
        }
    return CaseComparison(
        study.name,
        scores,
        final,
        {name: result.report.seconds["total"] for name, result in results.items()},
        {name: (result.report.energy or {}).get("watt_hours") for name, result in results.items()},
    )


def _remembered(folder: StudyFolder, result: Comparison) -> list[dict[str, Any]]:
    """Returns the agreement by number of labelled cases: earlier runs and this one, kept in the work folder."""
    file = folder.work.folder("comparisons") / "history.json"
    history: list[dict[str, Any]] = []
    try:
        history = [dict(entry) for entry in json.loads(file.read_text(encoding="utf-8")) if set(entry) >= _POINT]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s cannot be read (%s); agreement is remembered from now on", file, error)
    labelled = sum(study.final is not None for study in folder.studies())
    point = {"labelled": labelled, "models": list(result.models), "agreement": result.agreement(), "studies": len(result.cases)}
    history = [old for old in history if (old["labelled"], old["models"]) != (labelled, point["models"])]
    history = sorted([*history, point], key=lambda entry: entry["labelled"])
    write_json(history, file)
    return [entry for entry in history if entry["models"] == point["models"]]


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
