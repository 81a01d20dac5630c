"""Runs one variant on one case, and scores the label map against the ground truth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.memory import STEPS
from medsam2_atlas.base.peak_memory import peak_memory
from medsam2_atlas.evaluation import compare_labels, evaluation_config, prompt_errors
from medsam2_atlas.experiment.cases import EvaluationCase
from medsam2_atlas.experiment.record import Cost, OrganResult, PromptScore, Record
from medsam2_atlas.experiment.setting import Setting
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.imaging.hounsfield import read_ct
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume, read_labels
from medsam2_atlas.prompting import Jitter, Prompts, prompting_config, prompts_from_report, prompts_from_scores
from medsam2_atlas.segmenters.base import Options, Segmentation, Segmenter
from medsam2_atlas.segmenters.registry import family_of
from medsam2_atlas.segmenters.strategy_report import ATLAS_ALONE
from medsam2_atlas.studies.models import Models
from medsam2_atlas.studies.runner import run

_FORMAT = 1
"""Version of the records; a record of another version is made again."""
_SIDE_BY_SIDE = "several cases ran side by side; use --jobs 1"
"""Why energy is not measured with several processes."""


@dataclass(frozen=True)
class Measurement:
    """A record, and the label map that it scores."""

    record: Record
    labels: Volume


def keys(case: EvaluationCase, variant: Variant, setting: Setting, models: Models) -> Iterator[tuple[Memory, dict[str, Any]]]:
    """Yields each step of the memory ladder with its key; a stored record with any of the keys has the same scores.

    A key contains everything that the scores depend on: checksums of image and ground truth, the segmenter's provenance (atlas,
    weights, options, changed settings, version), the settings of the scores, and the scored organs.

    Raises:
        MedSAM2AtlasError: if the segmenter lacks something, or an option cannot be used.
    """
    segmenter, options = models.segmenter(variant.segmenter), _options(variant, setting)
    steps = models.ladder.steps if segmenter.uses_network else ("cpu",)
    for memory in STEPS:
        if memory in steps:
            yield memory, _key(case, variant, setting, segmenter, replace(options, memory=memory))


def is_valid(record: Record, case: EvaluationCase, variant: Variant, setting: Setting, models: Models) -> bool:
    """Returns whether a stored record is what a new run of the variant on the case would give.

    On a GPU, a record of the processor is valid only if the GPU's memory was too small for the case.

    Raises:
        MedSAM2AtlasError: if the segmenter lacks something, or an option cannot be used.
    """
    if (record.case, record.variant) != (case.name, variant):  # a folder whose names differ in case only, on some disks
        return False
    on_gpu = models.segmenter(variant.segmenter).uses_network and models.ladder.device.type != "cpu"
    possible = keys(case, variant, setting, models)
    return any(record.key == key for memory, key in possible if not on_gpu or memory != "cpu" or record.report.get("memory"))


def measure(case: EvaluationCase, variant: Variant, setting: Setting, models: Models) -> Measurement:
    """Runs a variant on a case from the beginning, so that its cost contains all of its stages, and scores the result.

    Args:
        case: the case.
        variant: the variant.
        setting: the experiment.
        models: the models of `setting.models(variant.references)`.

    Raises:
        MedSAM2AtlasError: if a file cannot be read, the ground truth does not fit, or the segmenter cannot run.
    """
    segmenter = models.segmenter(variant.segmenter)
    image = read_ct(case.image, models.hu)
    truth = read_labels(case.label, image)
    organ_table().check(case.label, np.unique(truth.array).tolist())
    options = replace(_options(variant, setting), truth=truth if segmenter.uses_truth else None)
    segmenter.check()  # loads atlas and weights, which a server or batch loads once for all cases
    on_cpu = replace(options, memory="cpu")
    before = _key(case, variant, setting, segmenter, on_cpu)
    models.forget_score_maps()  # of the previous variant, so that this one pays for its own registration
    with peak_memory() as peaks:
        ran = run(segmenter, case.image, options, models, no_energy="" if setting.energy else _SIDE_BY_SIDE)
    case.check()
    # If a model was replaced during the run, it is unknown which version made the result.
    if _key(case, variant, setting, segmenter, on_cpu) != before:
        raise InputError(variant.segmenter, "changed while the experiment ran.", "Run the command again.")
    result, report = ran.segmentation, ran.segmentation.report
    energy = report.energy or {}
    counted = [k for k in setting.organs if k in report.organ_numbers]
    prompts = _prompts(variant, result, image, models, options)
    record = Record(
        case=case.name,
        variant=variant,
        key=_key(case, variant, setting, segmenter, replace(options, memory=ran.step.memory)),
        organs=_organ_results(result.labels, truth, counted, prompts),
        counted=tuple(counted),
        prompted=prompts is not None,
        diagonal_mm=_diagonal(image),
        confusion=confusion(truth.array, result.labels.array, counted),
        total=_cost(energy, peaks),
        stages={stage: _cost(spent, peaks["stages"].get(stage, {})) for stage, spent in energy.get("stages", {}).items()},
        energy_how=str(energy.get("how", "not measured")),
        report=_short(report.to_json()),
        threads=setting.threads,
    )
    return Measurement(record, result.labels)


def confusion(truth: np.ndarray, predicted: np.ndarray, organs: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Counts the voxels of each pair of organs that differ or agree; other organs count as background (0).

    Args:
        truth: ground truth `[z, y, x]`, organ numbers.
        predicted: label map `[z, y, x]`.
        organs: numbers of the scored organs.

    Returns:
        Tuples (organ in the ground truth, organ in the prediction, voxels), without background in both, sorted.

    >>> confusion(np.array([[[1, 1, 0]]]), np.array([[[1, 2, 2]]]), [1, 2])
    ((0, 2, 1), (1, 1, 1), (1, 2, 1))
    """
    size = 1 + max(organs, default=0)
    kept = np.zeros(256, np.int64)
    kept[list(organs)] = list(organs)
    counts = np.bincount((kept[truth] * size + kept[predicted]).ravel(), minlength=size * size)
    return tuple((int(n) // size, int(n) % size, int(counts[n])) for n in np.flatnonzero(counts) if n > 0)


def _options(variant: Variant, setting: Setting) -> Options:
    jitter = None if variant.jitter is None else Jitter.parse(variant.jitter)
    return replace(setting.options, jitter=jitter)


def _key(case: EvaluationCase, variant: Variant, setting: Setting, segmenter: Segmenter, options: Options) -> dict[str, Any]:
    key = {
        "format": _FORMAT,
        "image": case.image_sha256,
        "label": case.label_sha256,
        "segmenter": segmenter.provenance(options),
        "references": variant.references,
        "scores": evaluation_config().model_dump(mode="json"),
        "organs": list(setting.organs),
    }
    if variant.segmenter == ATLAS_ALONE:  # its provenance covers no prompts, but `_prompts` scores some
        key["thresholds"] = options.thresholds
    elif (config := setting.conf.get("config")) and family_of(variant.segmenter).role in ("prompted", "reference"):
        key["network"] = sha256(Path(config)) if Path(config).is_file() else config
    plain: dict[str, Any] = json.loads(json.dumps(key))
    return plain


def _prompts(variant: Variant, result: Segmentation, image: Volume, models: Models, options: Options) -> Prompts | None:
    """Returns the first prompts of a result; None if its segmenter makes none.

    The score maps alone need no prompts, but are scored by those that strategy B would make of them.
    """
    report = result.report
    if variant.segmenter == ATLAS_ALONE:
        scores = models.score_maps(image, models.atlas())
        return prompts_from_scores(scores, organ_table(), options.labels, prompting_config().three_boxes, options.thresholds)
    described = report.first_pass_prompts or report.prompts
    if report.prompts is None:
        return None
    return Prompts(tuple(prompts_from_report(described or [])))


def _organ_results(labels: Volume, truth: Volume, organs: Sequence[int], prompts: Prompts | None) -> tuple[OrganResult, ...]:
    errors = {} if prompts is None else prompt_errors(prompts, truth, organs)
    found = []
    for k, score in sorted(compare_labels(labels, truth, organs).items()):
        error = errors.get(k)
        prompt = None
        if error is not None:
            prompt = PromptScore(
                centre_mm=error.centre,
                z_min_mm=error.z_min,
                z_max_mm=error.z_max,
                box_iou=float(np.mean(error.iou)),
                cut=error.cut,
            )
        predicted_ml, truth_ml = score.volumes_ml
        found.append(
            OrganResult(
                organ=k,
                truth_ml=truth_ml,
                predicted_ml=predicted_ml,
                dice=score.dice,
                nsd=score.nsd,
                hd95_mm=score.hd95_mm,
                prompt=prompt,
            )
        )
    return tuple(found)


def _cost(energy: Mapping[str, Any], peaks: Mapping[str, Any]) -> Cost:
    """Returns the cost of a stage, or of all stages, from its energy and its peaks of memory."""
    return Cost(
        seconds=energy.get("seconds"),
        peak_mib=peaks.get("mib"),
        gpu_mib=peaks.get("gpu_mib"),
        watt_hours=energy.get("watt_hours"),
        co2_grams=energy.get("co2_grams"),
    )


def _diagonal(image: Volume) -> float:
    """Returns the diagonal of the image in mm, from the first voxel's outer corner to the last one's."""
    size, spacing = np.array(image.geometry.size), np.array(image.geometry.spacing)
    return float(np.linalg.norm(size * spacing))


def _short(report: dict[str, Any]) -> dict[str, Any]:
    """Returns a report without its prompts, which are long, and without the path of the image."""
    return {key: value for key, value in report.items() if key not in ("prompts", "first_pass_prompts", "image")}
