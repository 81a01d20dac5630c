"""The rows of `bench/prompts.py`: the results of a method and a rule for an organ of a target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from prompt_rules import PUBLISHED

from medsam2_atlas.evaluation import evaluation_config, prompt_errors
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.masks import at_ends, without_specks
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.prompting import BoxPrompt, Prompts
from medsam2_atlas.scoremaps import ScoreMaps

_CONTAINED = 0.95
"""Share of an organ's pixels that lie in a box that contains it."""


@dataclass(frozen=True)
class Row:
    """The results of a method for an organ of a target.

    Attributes:
        set: name of the set of CTs.
        target: name of the target.
        copy: 0 for the target itself, or the number of a noisy copy.
        method: name of the method.
        rule: name of the rule that made the prompts.
        organ: name of the organ.
        dice: Dice of the score map.
        centre: error of the prompting region's centre, mm; None without a prompt.
        z_min: error of its lower end, mm; None without a prompt.
        z_max: error of its upper end, mm; None without a prompt.
        iou: IoU of each box with the ground-truth box on its slice.
        contains: whether each box contains nearly all of the organ on its slice.
        usable: whether the organ has a usable prompt.
        cut: whether the scan's ends cut the organ.
        folding: share of the deformation's cells that fold.
        confidence: confidence of the prompt, 0..1; None without a prompt.
        evidence: evidence of the score map, by kind.
    """

    set: str
    target: str
    copy: int
    method: str
    rule: str
    organ: str = ""
    dice: float = 0.0
    centre: float | None = None
    z_min: float | None = None
    z_max: float | None = None
    iou: tuple[float, ...] = ()
    contains: tuple[bool, ...] = ()
    usable: bool = False
    cut: bool = False
    folding: float = 0.0
    confidence: float | None = None
    evidence: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name of the method, and of the rule if it is not the published one."""
        return self.method if self.rule == PUBLISHED else f"{self.method} {self.rule}"


def rows_of(about: Row, dice: Mapping[int, float], scores: ScoreMaps, prompts: Prompts, truth: Volume) -> list[Row]:
    """Returns the rows of a target's organs.

    Args:
        about: a row with set, target, copy, method, rule and folding.
        dice: Dice of the score maps by organ number.
        scores: the target's score maps.
        prompts: its prompts.
        truth: ground truth `[z, y, x]`.
    """
    table = organ_table()
    sure = {prompt.label: prompt for prompt in prompts.prompts}
    clean = without_specks(truth.array, evaluation_config().min_piece_share)
    cut = at_ends(clean)
    rows = []
    for k, error in prompt_errors(prompts, truth, [k for k in table.indices if k in scores.maps]).items():
        evidence = dict(scores.maps[k].evidence)
        row = replace(about, organ=table[k].name, dice=dice[k], cut=k in cut, evidence=evidence)
        if error is not None:
            contains = tuple(_contains(box, clean[box.z] == k) for box in sure[k].boxes)
            row = replace(
                row, centre=error.centre, z_min=error.z_min, z_max=error.z_max, iou=error.iou, usable=error.usable,
                confidence=sure[k].confidence, contains=contains,
            )  # fmt: skip
        rows.append(row)
    return rows


def _contains(box: BoxPrompt, mask: np.ndarray) -> bool:
    """Returns whether a box contains nearly all pixels of a mask `[y, x]` that is not empty."""
    x0, y0, x1, y1 = box.box
    inside = mask[max(0, math.ceil(y0)) : math.floor(y1) + 1, max(0, math.ceil(x0)) : math.floor(x1) + 1].sum()
    return bool(mask.any() and inside >= _CONTAINED * mask.sum())
