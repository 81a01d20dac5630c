"""Runs two models over all studies, taking what is stored already, and collects how far they agree."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.energy import measured
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, problem_of
from medsam2_atlas.base.files import write_json
from medsam2_atlas.base.memory import Ladder, ran_on
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.evaluation import OrganScore, compare_labels
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule, read_ct
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume, read_labels
from medsam2_atlas.medsam2 import Weights
from medsam2_atlas.registration import RegistrationCache
from medsam2_atlas.segmenters.base import Segmentation
from medsam2_atlas.segmenters.strategies import Case, segment
from medsam2_atlas.segmenters.unet import segment_with_unet
from medsam2_atlas.storage import FINAL, Study, StudyFolder, WorkFolder
from medsam2_atlas.studies import PredictionStore, foundation_provenance, unet_provenance
from medsam2_atlas.unet import UNet

log = logging.getLogger(__name__)

_POINT = {"labelled", "models", "agreement", "studies"}


@dataclass(frozen=True)
class Contestant:
    """A model in a comparison.

    name: the tag of its predictions. provenance: what they depend on besides the image. run: makes one. Both depend on how
    sparing networks are with a GPU's memory, as the ladder says. hu: how the values of CTs become HU.
    """

    name: str
    provenance: Callable[[Memory], Mapping[str, Any]]
    run: Callable[[Volume, Memory], Segmentation]
    hu: HuRule = CHECK
    ladder: Ladder = field(default_factory=lambda: Ladder(torch.device("cpu")))


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
        """Mean Dice between the two models, of one organ or over all."""
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
        """Median time of a case."""
        return float(np.median([case.seconds[model] for case in self.cases])) if self.cases else float("nan")


def foundation(
    atlas: Atlas, weights: Weights | None, strategy: str, work: WorkFolder, ladder: Ladder, hu: HuRule = CHECK
) -> Contestant:
    """MedSAM2 by a strategy, or the atlas alone. Networks lie on the processor; the ladder takes them to its device."""
    name = "atlas" if strategy == "atlas" else "medsam2_atlas"
    cache = RegistrationCache(work.path / "registrations")

    def provenance(memory: Memory) -> dict[str, Any]:
        return foundation_provenance(
            strategy=strategy,
            atlas=atlas.version,
            weights=weights.sha256 if weights is not None else None,
            hu=hu,
            ran_on=ran_on(ladder.device_of(memory), medsam2=True, unet=False, memory=memory),
        )

    def run(image: Volume, memory: Memory) -> Segmentation:
        case = Case(image, atlas, weights, registrations=cache)
        return segment(case.sparing(memory, ladder.device_of(memory)), strategy)

    return Contestant(name, provenance, run, hu, ladder)


def unet_baseline(unet: UNet, name: str, ladder: Ladder, hu: HuRule = CHECK) -> Contestant:
    """A U-Net alone."""

    def provenance(memory: Memory) -> dict[str, Any]:
        where = ran_on(ladder.device_of(memory), medsam2=False, unet=True, memory=memory)
        return unet_provenance(weights=unet.sha256, hu=hu, ran_on=where)

    def run(image: Volume, memory: Memory) -> Segmentation:
        return segment_with_unet(image, unet.on(ladder.device_of(memory)), memory=memory)

    return Contestant(name, provenance, run, hu, ladder)


def compare_studies(
    folder: StudyFolder, contestants: tuple[Contestant, Contestant], progress: Progress = silent, *, strict: bool = False
) -> Comparison:
    """Compares two models on every study of a folder; a study that fails is listed with its problem.

    Raises:
        InputError: if `strict`, the first study that fails.
    """
    folder.store.audit()
    store = PredictionStore(folder.work, folder.store)
    result = Comparison((contestants[0].name, contestants[1].name), hu=contestants[0].hu)
    marks: set[str] = set()
    result.problems = _doubts(folder)
    if strict and result.problems:
        raise InputError(*next(iter(result.problems.items())))
    studies = folder.studies()
    for number, study in enumerate(studies):
        try:
            results = {contestant.name: _segmented(store, study, contestant) for contestant in contestants}
            result.cases.append(_compared(study, results))
            marks |= {str(s.report["mark"]) for s in results.values() if s.report.get("mark")}
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


def _segmented(store: PredictionStore, study: Study, contestant: Contestant) -> Segmentation:
    name, ladder = contestant.name, contestant.ladder
    found = store.find(name, study.name, study.image, *map(contestant.provenance, ladder.steps))
    if found is not None:
        return found.segmentation(study.image)
    with measured() as energy:
        image = read_ct(study.image, contestant.hu)
        result, step = ladder.run(name, lambda memory: contestant.run(image, memory))
    result.report["energy"] = energy
    if step.note:
        result.report["memory"] = step.note
    store.save(name, study.name, study.image, contestant.provenance(step.memory), result)
    return result


def _compared(study: Study, results: Mapping[str, Segmentation]) -> CaseComparison:
    first, second = (result.labels for result in results.values())
    scores = compare_labels(first, second, organ_table().indices)
    final: dict[str, dict[int, OrganScore]] = {}
    if study.final is not None:
        truth = read_labels(study.final, first)
        annotated = [k for k in organ_table().indices if (truth.array == k).any()]
        final = {name: compare_labels(result.labels, truth, annotated) for name, result in results.items()}
    return CaseComparison(
        study.name,
        scores,
        final,
        {name: float(result.report["seconds"]["total"]) for name, result in results.items()},
        {name: result.report.get("energy", {}).get("watt_hours") for name, result in results.items()},
    )


def _remembered(folder: StudyFolder, result: Comparison) -> list[dict[str, Any]]:
    """Agreement by number of labelled cases: earlier runs and this one, kept in the work folder."""
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
