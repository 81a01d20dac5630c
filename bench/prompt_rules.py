"""Rules that `bench/prompts.py --rules` compares with the published one: boxes on the slices at 25, 50 and 75 % of the range.

A rule is named `NAME` or `NAME:VALUE:VALUE`:

`published`            the product's prompts.
`thin:MM:SHARE`        an organ whose thresholded map contains no ball of MM mm diameter has SHARE times the threshold.
`thin-boxes:MM:SHARE`  the same for the boxes only; slices and range stay.
`certain:WINDOW`       each box lies on the slice with the highest certainty within WINDOW of the range around its place.
`slack:SHARE`          each side of a box moves outwards by SHARE · (1 − confidence) of the box's length along its axis.
`slack-all:SHARE`      the same by SHARE, whatever the confidence.
`vessels:SHARE`        if the aorta lies right of the vena cava, the less certain prompt's confidence is multiplied by SHARE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from medsam2_atlas.base.choices import ThresholdRule
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.prompting import BoxPrompt, OrganPrompt, Prompts, bounding_box, prompting_config, prompts_from_scores
from medsam2_atlas.prompting.priors import _to_the_left
from medsam2_atlas.scoremaps import ScoreMaps, fusion_config, threshold_of

PUBLISHED = "published"
_AORTA, _VENA_CAVA = 8, 9


@dataclass(frozen=True)
class Found:
    """What a rule starts from.

    Attributes:
        scores: the score maps of the target.
        thresholds: the rule for their thresholds.
        prompts: the published prompts.
    """

    scores: ScoreMaps
    thresholds: ThresholdRule
    prompts: Prompts

    def threshold(self, organ: int) -> float:
        """Returns the score above which a voxel counts as the organ's."""
        return threshold_of(self.thresholds, organ, self.scores, organ_table(), fusion_config().thresholds)


def thickness(found: Found, organ: int) -> float:
    """Returns the diameter in mm of the largest ball inside an organ's thresholded map."""
    inside = np.pad(found.scores.maps[organ].values > found.threshold(organ) * 255, 1)
    return 2 * float(ndimage.distance_transform_edt(inside, sampling=found.scores.reduced_spacing).max())


def thin(found: Found, limit: float, share: float) -> Prompts:
    """Lowers the threshold of thin maps."""
    thresholds = {k: found.threshold(k) for k in found.scores.maps}
    thresholds |= {k: share * thresholds[k] for k in _thin_organs(found, limit)}
    table = organ_table()
    return prompts_from_scores(
        replace(found.scores, thresholds=thresholds), table, table.indices, prompting_config().three_boxes, "atlas"
    )


def thin_boxes(found: Found, limit: float, share: float) -> Prompts:
    """Lowers the threshold of thin maps for their boxes, and leaves slices and range."""
    organs = _thin_organs(found, limit)

    def wider(prompt: OrganPrompt) -> OrganPrompt:
        if prompt.label not in organs:
            return prompt
        threshold = share * found.threshold(prompt.label)
        boxes = tuple(
            BoxPrompt(box.z, bounding_box(found.scores.plane(prompt.label, box.z) > threshold)) for box in prompt.boxes
        )
        return replace(prompt, boxes=boxes)

    return _changed(found, wider)


def certain(found: Found, window: float) -> Prompts:
    """Moves boxes to the slices with the highest certainty: the mean score, weighted by scores, above the threshold."""

    def moved(prompt: OrganPrompt) -> OrganPrompt:
        threshold, length = found.threshold(prompt.label), prompt.z_max - prompt.z_min
        planes = {}
        for z in range(prompt.z_min, prompt.z_max + 1):
            scores = found.scores.plane(prompt.label, z)
            if (inside := scores > threshold).any():
                planes[z] = (float((scores[inside] ** 2).sum() / scores[inside].sum()), bounding_box(inside))
        boxes: dict[int, BoxPrompt] = {}
        for fraction in prompting_config().three_boxes:
            place = prompt.z_min + length * fraction
            free = [z for z in planes if z not in boxes and abs(z - place) <= max(1.0, window * length)]
            if free:
                best = max(free, key=lambda z: (planes[z][0], -abs(z - place)))
                boxes[best] = BoxPrompt(best, planes[best][1])
        return replace(prompt, boxes=tuple(boxes[z] for z in sorted(boxes))) if boxes else prompt

    return _changed(found, moved)


def slack(found: Found, share: float) -> Prompts:
    """Enlarges the boxes of uncertain prompts."""
    return _changed(found, lambda prompt: _enlarged(prompt, share * (1 - (prompt.confidence or 0.0)), found.scores))


def slack_all(found: Found, share: float) -> Prompts:
    """Enlarges all boxes."""
    return _changed(found, lambda prompt: _enlarged(prompt, share, found.scores))


def vessels(found: Found, share: float) -> Prompts:
    """Lowers the confidence of the less certain vessel if the aorta lies right of the vena cava, in the common space."""
    by_label = {p.label: p for p in found.prompts.prompts}
    aorta, vein = by_label.get(_AORTA), by_label.get(_VENA_CAVA)
    if aorta is None or vein is None or _to_the_left(aorta, found.scores) > _to_the_left(vein, found.scores):
        return found.prompts
    weaker = min((aorta, vein), key=lambda prompt: prompt.confidence or 0.0)
    return _changed(
        found, lambda p: replace(p, confidence=share * p.confidence) if p is weaker and p.confidence is not None else p
    )


_RULES: dict[str, Callable[..., Prompts]] = {
    "thin": thin,
    "thin-boxes": thin_boxes,
    "certain": certain,
    "slack": slack,
    "slack-all": slack_all,
    "vessels": vessels,
}


def prompts_by(rule: str, found: Found) -> Prompts:
    """Returns the prompts of a rule; see the module's docstring for the names."""
    if rule == PUBLISHED:
        return found.prompts
    name, *values = rule.split(":")
    return _RULES[name](found, *map(float, values))


def _thin_organs(found: Found, limit: float) -> set[int]:
    return {p.label for p in found.prompts.prompts if thickness(found, p.label) < limit}


def _changed(found: Found, change: Callable[[OrganPrompt], OrganPrompt]) -> Prompts:
    return replace(found.prompts, prompts=tuple(map(change, found.prompts.prompts)))


def _enlarged(prompt: OrganPrompt, share: float, scores: ScoreMaps) -> OrganPrompt:
    columns, rows = scores.geometry.size[:2]
    boxes = []
    for box in prompt.boxes:
        x0, y0, x1, y1 = box.box
        x, y = share * (x1 - x0 + 1), share * (y1 - y0 + 1)
        boxes.append(BoxPrompt(box.z, (max(0, x0 - x), max(0, y0 - y), min(columns - 1, x1 + x), min(rows - 1, y1 + y))))
    return replace(prompt, boxes=tuple(boxes))
