"""How far prompts are from those that the true label map would give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from medsam2_atlas.evaluation.config import evaluation_config
from medsam2_atlas.imaging.masks import at_ends, box_overlap, without_specks
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.prompting import Box, BoxPrompt, Prompts, bounding_box, prompting_config, prompts_from_labels


@dataclass(frozen=True)
class PromptError:
    """Of one organ; everything in mm but `iou`.

    centre: distance between the centres of the prompting regions: half-way along the range, and the mean of the boxes'
    centres across it. z_min, z_max: of the range's ends; positive where the prompt's lies higher. iou: of each box, by
    rising slice, with the organ's true box on that slice; 0 where it is not there. cut: whether the organ touches the scan's
    first or last slice, so that its true ends are the scan's.
    """

    centre: float
    z_min: float
    z_max: float
    iou: tuple[float, ...]
    cut: bool

    @property
    def usable(self) -> bool:
        """Whether any box holds a part of the organ."""
        return max(self.iou) > 0


def prompt_errors(prompts: Prompts, truth: Volume, organs: Iterable[int]) -> dict[int, PromptError | None]:
    """Returns the errors of the organs that the truth holds; None for those of them that have no prompt.

    Small pieces of a label map (`EvaluationConfig.min_piece_share`) are not part of the truth.

    Args:
        prompts: in voxel indices of the truth's grid.
        truth: true label map.
        organs: organ numbers.
    """
    found = {p.label: p for p in prompts.prompts}
    labels = without_specks(truth.array, evaluation_config().min_piece_share)
    true = {p.label: p for p in prompts_from_labels(labels, organs, prompting_config().three_boxes, "").prompts}
    spacing = np.array(truth.geometry.spacing)
    cut = at_ends(labels)
    errors: dict[int, PromptError | None] = {}
    for k, expected in true.items():
        prompt = found.get(k)
        if prompt is None:
            errors[k] = None
            continue
        offset = (
            _centre(prompt.boxes, prompt.z_min, prompt.z_max) - _centre(expected.boxes, expected.z_min, expected.z_max)
        ) * spacing
        errors[k] = PromptError(
            float(np.linalg.norm(offset)),
            float((prompt.z_min - expected.z_min) * spacing[2]),
            float((prompt.z_max - expected.z_max) * spacing[2]),
            tuple(_overlap(box.box, labels[box.z] == k) for box in prompt.boxes),
            k in cut,
        )
    return errors


def _centre(boxes: Iterable[BoxPrompt], z_min: int, z_max: int) -> np.ndarray:
    corners = np.array([box.box for box in boxes])
    across = (corners[:, :2] + corners[:, 2:]).mean(0) / 2
    return np.array([across[0], across[1], (z_min + z_max) / 2])


def _overlap(box: Box, mask: np.ndarray) -> float:
    """Of a box and a mask's, both with their last pixels."""
    if not mask.any():
        return 0.0
    found, true = (np.array(corners).reshape(2, 2) + [[0], [1]] for corners in (box, bounding_box(mask)))
    return box_overlap(found, true)
