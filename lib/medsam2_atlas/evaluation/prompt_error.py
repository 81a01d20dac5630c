"""Measures the errors of prompts: their distances from the prompts of the ground truth."""

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
    """The errors of one organ's prompt.

    Attributes:
        centre: distance between the centres of the two prompting regions, in mm. A centre is the middle of the range along z,
            and the mean of the boxes' centres in plane.
        z_min: error of the range's lower end, in mm; positive if the prompt's end is higher.
        z_max: error of the range's upper end, in mm; positive if the prompt's end is higher.
        iou: intersection over union of each box with the organ's true box on the same slice, in the order of slices; 0 if the
            organ is not on the slice.
        cut: whether the organ touches the scan's first or last slice, so that its true end is unknown.
    """

    centre: float
    z_min: float
    z_max: float
    iou: tuple[float, ...]
    cut: bool

    @property
    def usable(self) -> bool:
        """Whether at least one box overlaps the organ's true box."""
        return max(self.iou) > 0


def prompt_errors(prompts: Prompts, truth: Volume, organs: Iterable[int]) -> dict[int, PromptError | None]:
    """Measures the prompt errors of all organs that the ground truth contains.

    Small components of the ground truth (`EvaluationConfig.min_piece_share`) are ignored.

    Args:
        prompts: prompts in voxel indices of the ground truth's grid.
        truth: ground truth `[z, y, x]`.
        organs: organ numbers.

    Returns:
        Errors by organ number; None for an organ without a prompt.
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
    """Returns the IoU of a box and the bounding box of a mask `[y, x]`; both include their last pixels."""
    if not mask.any():
        return 0.0
    found, true = (np.array(corners).reshape(2, 2) + [[0], [1]] for corners in (box, bounding_box(mask)))
    return box_overlap(found, true)
