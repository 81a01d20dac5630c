"""Makes prompts from masks: an organ's range of slices, and its boxes on some of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from medsam2_atlas.base.choices import DEFAULT_THRESHOLDS, ThresholdRule
from medsam2_atlas.imaging.labels import OrganTable
from medsam2_atlas.prompting.confidence import confidence, confidence_config
from medsam2_atlas.prompting.config import prompting_config
from medsam2_atlas.prompting.priors import resolve_laterality
from medsam2_atlas.prompting.prompt import BoxPrompt, OrganPrompt, Prompts
from medsam2_atlas.scoremaps import ScoreMaps, fusion_config, threshold_of


def bounding_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Returns the smallest axis-parallel box (x_min, y_min, x_max, y_max) of a mask `[y, x]`, last pixels included.

    Examples:
        >>> bounding_box(np.array([[0, 0, 0], [0, 1, 1]], bool))
        (1.0, 1.0, 2.0, 1.0)
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])


def prompt_from_planes(
    label: int, z_min: int, z_max: int, mask_at: Callable[[int], np.ndarray], fractions: tuple[float, ...]
) -> OrganPrompt:
    """Returns a prompt with one box for each fraction p of the range: on slice `z_min + (z_max − z_min) · p`, rounded down.

    If the mask of that slice is empty, the box is taken from the nearest slice of the range with a mask, and lies on that
    slice. Boxes on the same slice become one. The prompt's notes record both.

    Args:
        label: the organ number.
        z_min: the first slice with a mask that is not empty.
        z_max: the last slice with a mask that is not empty.
        mask_at: returns the organ's mask on a slice, `[y, x]` bool.
        fractions: the positions of the boxes in the range, 0..1.
    """
    boxes: dict[int, BoxPrompt] = {}
    notes = []
    for fraction in fractions:
        requested = math.floor(z_min + (z_max - z_min) * fraction)
        by_distance = sorted(range(z_min, z_max + 1), key=lambda z: abs(z - requested))
        found, mask = next((z, mask) for z in by_distance if (mask := mask_at(z)).any())
        if found != requested:
            notes.append(f"slice {requested} is empty: box taken from slice {found}")
        if found in boxes:
            notes.append(f"the box at {fraction:.0%} shares slice {found} with another")
        boxes[found] = BoxPrompt(found, bounding_box(mask))
    return OrganPrompt(label, z_min, z_max, tuple(boxes[z] for z in sorted(boxes)), tuple(notes))


def prompts_from_scores(
    scores: ScoreMaps,
    table: OrganTable,
    organs: Iterable[int],
    fractions: tuple[float, ...],
    rule: ThresholdRule = DEFAULT_THRESHOLDS,
) -> Prompts:
    """Makes prompts from score maps.

    An organ's prompting region is its score map above its threshold. Each prompt has the confidence of its score map.

    Args:
        scores: the target's score maps.
        table: the organs, with the published thresholds.
        organs: the organ numbers.
        fractions: the positions of the boxes in the range of slices, 0..1.
        rule: the rule for thresholds; see `scoremaps.threshold_of`.
    """
    config, prompts, missing = prompting_config(), [], {}
    for k in organs:
        score = scores.maps.get(k)
        if score is None:
            missing[k] = "no reference of the atlas has it labelled"
            continue
        if score.visible < config.min_visible:
            missing[k] = "it lies outside the scan"
            continue
        highest = score.maximum
        threshold = threshold_of(rule, k, scores, table, fusion_config().thresholds)
        if highest < config.min_score or highest <= threshold:
            missing[k] = f"its score stays at or below {highest:.2f}, the threshold is {threshold:.2f}"
            continue
        hits = np.flatnonzero((score.values > threshold * 255).any((1, 2)))
        planes = {z: mask for z in (hits + score.lower[0]).tolist() if (mask := scores.plane(k, z) > threshold).any()}
        if not planes:
            missing[k] = f"no pixel's score is above the threshold {threshold:.2f}"
            continue
        prompt = prompt_from_planes(k, min(planes), max(planes), _lookup(planes, scores.geometry.shape), fractions)
        if score.visible < config.min_fully_imaged:
            prompt = replace(prompt, notes=(*prompt.notes, f"about {1 - score.visible:.0%} of it lies outside the scan"))
        prompts.append(replace(prompt, confidence=confidence(score.evidence, confidence_config())))
    found = Prompts(tuple(prompts), missing)
    return resolve_laterality(found, table, scores) if config.check_sides else found


def _lookup(planes: Mapping[int, np.ndarray], shape: tuple[int, ...]) -> Callable[[int], np.ndarray]:
    """Returns a function from a slice to its mask, which is empty if the slice has none."""
    empty = np.zeros(shape[1:], bool)
    return lambda z: planes.get(z, empty)


def prompts_from_labels(labels: np.ndarray, organs: Iterable[int], fractions: tuple[float, ...], reason: str) -> Prompts:
    """Makes prompts from a label map.

    Args:
        labels: the label map, `[z, y, x]`.
        organs: the organ numbers.
        fractions: the positions of the boxes in the range of slices, 0..1.
        reason: the reason recorded for organs that are missing from the label map.
    """
    prompts, missing = [], {}
    for k in organs:
        mask = labels == k
        slices = np.flatnonzero(mask.any((1, 2)))
        if not len(slices):
            missing[k] = reason
            continue
        prompts.append(prompt_from_planes(k, int(slices[0]), int(slices[-1]), mask.__getitem__, fractions))
    return Prompts(tuple(prompts), missing)


def enlarged(prompts: Prompts, table: OrganTable, shape: tuple[int, ...]) -> Prompts:
    """Enlarges boxes and ranges as in strategy D, within the volume; `PromptingConfig` has the amounts.

    Boxes stay on their slices. The range of an organ stays unchanged if its table entry has `enlarge_z: false`.

    Args:
        prompts: the prompts to enlarge.
        table: the organs.
        shape: the shape (z, y, x) of the volume.
    """
    depth, rows, columns = shape
    config, result = prompting_config(), []
    widening = (math.sqrt(config.box_area_factor) - 1) / 2
    for prompt in prompts.prompts:
        boxes = []
        for box in prompt.boxes:
            x0, y0, x1, y1 = box.box
            grow_x, grow_y = (widening * (side + 1) for side in (x1 - x0, y1 - y0))
            corners = (max(0, x0 - grow_x), max(0, y0 - grow_y), min(columns - 1, x1 + grow_x), min(rows - 1, y1 + grow_y))
            boxes.append(BoxPrompt(box.z, corners))
        more = 0
        if table[prompt.label].enlarge_z:
            more = math.floor(config.range_growth / 2 * (prompt.z_max - prompt.z_min + 1) + 0.5)
        z_min, z_max = max(0, prompt.z_min - more), min(depth - 1, prompt.z_max + more)
        result.append(replace(prompt, z_min=z_min, z_max=z_max, boxes=tuple(boxes)))
    return replace(prompts, prompts=tuple(result))
