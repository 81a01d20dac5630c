"""The confidence of an organ in strategy F: logistic regression on the confidence of its prompt and on the disagreement."""

from __future__ import annotations

import math

from medsam2_atlas.segmenters.joint_config import JointConfidenceConfig

_LIMIT = 30.0


def joint_confidence(prompt: float | None, differ: float, config: JointConfidenceConfig) -> float | None:
    """Returns the probability that an organ's Dice is at least 0.85; None if the confidence of its prompt is unknown.

    Args:
        prompt: the confidence of the organ's first prompt, 0..1.
        differ: the share of the organ's voxels on which score map and network differ, 0..1.
        config: the model.

    Examples:
        >>> model = JointConfidenceConfig(bias=2.0, prompt=1.0, disagreement=-4.0)
        >>> joint_confidence(0.5, 0.5, model), joint_confidence(0.5, 1.0, model)
        (0.5, 0.119)
    """
    if prompt is None:
        return None
    share = min(max(prompt, 0.001), 0.999)  # confidences are rounded to three digits
    logit = config.bias + config.prompt * math.log(share / (1 - share)) + config.disagreement * differ
    return round(1 / (1 + math.exp(-max(-_LIMIT, min(_LIMIT, logit)))), 3)
