"""Runs two segmenters over all studies, reuses stored results, and measures their agreement."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, problem_of
from medsam2_atlas.base.files import write_json
from medsam2_atlas.base.progress import Progress, doing, noting, reporting, silent
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
    """The comparison of two models on one study.

    Attributes:
        study: name of the study.
        scores: scores of the first model against the second, by organ number.
        final: scores of each model against the signed-off label, by model and organ number.
        seconds: wall time of each model, in s.
        watt_hours: energy of each model, in Wh; None if unknown.
        disagreement: strategy F: the share of voxels on which score maps and network differ, by model and organ number.
    """

    study: str
    scores: dict[int, OrganScore]
    final: dict[str, dict[int, OrganScore]]
    seconds: dict[str, float]
    watt_hours: dict[str, float | None]
    disagreement: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def mean_dice(self) -> float:
        """The mean Dice between the two models, over the organs that at least one of them found; NaN without organs."""
        return float(np.mean([score.dice for score in self.scores.values()])) if self.scores else float("nan")


@dataclass
class Comparison:
    """The comparison of two models on all studies.

    Attributes:
        models: names of the two models.
        cases: the compared studies.
        problems: why other studies could not be compared, by name.
        history: agreement by number of labelled cases.
        marks: warnings about the weights.
        hu: rule that converted the values of the CTs to HU.
    """

    models: tuple[str, str]
    cases: list[CaseComparison] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    hu: HuRule = CHECK

    def agreement(self, organ: int | None = None) -> float | None:
        """Returns the mean Dice between the two models, of one organ or of all; None without a value."""
        if organ is None:
            return _mean([case.mean_dice for case in self.cases if case.scores])
        return _mean([case.scores[organ].dice for case in self.cases if organ in case.scores])

    def against_final(self, model: str, organ: int | None = None) -> float | None:
        """Returns the mean Dice between a model and the signed-off labels, of one organ or of all.

        An organ that is missing in a study's signed-off label does not count there. None without a value.
        """
        cases = [case.final[model] for case in self.cases if model in case.final]
        if organ is None:
            return _mean([float(np.mean([s.dice for s in scores.values()])) for scores in cases if scores])
        return _mean([scores[organ].dice for scores in cases if organ in scores])

    def disagreement(self, model: str, organ: int | None = None) -> float | None:
        """Returns the mean share of voxels on which a model's score maps and network differ, of one organ or of all.

        Only strategy F reports it; None for other models.
        """
        cases = [case.disagreement.get(model, {}) for case in self.cases]
        if organ is None:
            return _mean([float(np.mean(list(shares.values()))) for shares in cases if shares])
        return _mean([shares[organ] for shares in cases if organ in shares])

    def seconds(self, model: str) -> float:
        """Returns the median wall time of a case, in s."""
        return float(np.median([case.seconds[model] for case in self.cases])) if self.cases else float("nan")


def compare_studies(
    folder: StudyFolder,
    segmenters: tuple[Segmenter, Segmenter],
    models: Models,
    progress: Progress = silent,
    *,
    strict: bool = False,
) -> Comparison:
    """Compares two segmenters on every study of a folder. A study that fails is listed with its problem.

    Args:
        folder: the studies folder; results are stored there.
        segmenters: two segmenters of different models, because all segmenters of a model store their results under one tag.
        models: provides the memory ladder and the HU rule.
        progress: called with the fraction completed.
        strict: raise an error for the first study that fails.

    Raises:
        InputError: if both segmenters belong to one model, or if `strict` and a study fails.
    """
    tags = (model_of(segmenters[0].name), model_of(segmenters[1].name))
    if tags[0] == tags[1]:
        problem = f"is stored under the same tag as {segmenters[0].name}."
        raise InputError(segmenters[1].name, problem, "Compare segmenters of two models.")
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
            results = {}
            for ready, (tag, segmenter) in enumerate(zip(tags, segmenters, strict=True)):
                progress("studies", (number + ready / 2) / len(studies))
                doing(f"{study.name}, {segmenter.name}")
                with reporting(noting(f"{study.name}, {segmenter.name}")):
                    results[tag] = runner.get(segmenter, study.name, study.image).segmentation
            doing(f"{study.name}: comparing")
            result.cases.append(_compared(study, results))
            marks |= {s.report.mark for s in results.values() if s.report.mark}
        except MedSAM2AtlasError as error:
            if strict:
                raise
            result.problems[study.name] = str(error)
        except Exception as error:  # one study that fails must not stop the comparison
            if strict:
                raise InputError(study.image, f"cannot be compared: {problem_of(error)}.") from error
            result.problems[study.name] = f"{type(error).__name__}: {error}"
            log.exception("%s cannot be compared", study.name)
        progress("studies", (number + 1) / len(studies))
    result.marks = sorted(marks)
    result.history = _remembered(folder, result)
    return result


def _doubts(folder: StudyFolder) -> dict[str, str]:
    """Returns the problems of excluded images, and of signed-off label maps that models are not compared with, by study."""
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
        signed_off = read_labels(study.final, first)
        annotated = [k for k in organ_table().indices if (signed_off.array == k).any()]
        final = {
            name: compare_labels(result.labels, signed_off, [k for k in annotated if k in known[name]])
            for name, result in results.items()
        }
    return CaseComparison(
        study.name,
        scores,
        final,
        {name: result.report.seconds["total"] for name, result in results.items()},
        {name: (result.report.energy or {}).get("watt_hours") for name, result in results.items()},
        {name: shares for name, result in results.items() if (shares := _disagreement(result))},
    )


def _disagreement(result: Segmentation) -> dict[int, float]:
    found = result.report.disagreement or {}
    return {organ.index: found[organ.name] for organ in organ_table().organs if organ.name in found}


def _remembered(folder: StudyFolder, result: Comparison) -> list[dict[str, Any]]:
    """Adds this run to the history of agreement in the work folder, and returns the entries of these two models."""
    file = folder.work.folder("comparisons") / "history.json"
    history: list[dict[str, Any]] = []
    try:
        history = [dict(entry) for entry in json.loads(file.read_text(encoding="utf-8")) if set(entry) >= _POINT]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s cannot be read (%s); a new history of agreement begins", file, error)
    labelled = sum(study.final is not None for study in folder.studies())
    point = {"labelled": labelled, "models": list(result.models), "agreement": result.agreement(), "studies": len(result.cases)}
    history = [old for old in history if (old["labelled"], old["models"]) != (labelled, point["models"])]
    history = sorted([*history, point], key=lambda entry: entry["labelled"])
    write_json(history, file)
    return [entry for entry in history if entry["models"] == point["models"]]


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
