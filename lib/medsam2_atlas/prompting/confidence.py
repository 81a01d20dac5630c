"""How sure a prompt from score maps is: logistic regression on the evidence, calibrated by `bench/confidence.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.resource import resource


class ConfidenceConfig(Settings):
    """ln(p / (1 − p)) = bias + Σ weight · evidence, p the probability that the boxes overlap the true ones by half or more."""

    bias: float = Field(-4.482, description="log odds without any evidence; fitted by bench/confidence.py")
    weights: dict[str, float] = Field(
        {"certain": 6.406, "kept": 1.28, "size": -0.777, "similar": -0.925, "agreement": 0.625, "visible": 0.864},
        description="log odds per unit of each kind of evidence (scoremaps/evidence.py); fitted by bench/confidence.py",
    )


@cache
def confidence_config(file: Path | None = None) -> ConfidenceConfig:
    """Returns the weights in `configs/confidence.yaml`, or in another file.

    Raises:
        InputError: the file does not hold weights.
    """
    return read_config(ConfidenceConfig, file or resource("configs/confidence.yaml"), "confidence configuration")


def confidence(evidence: Mapping[str, float], config: ConfidenceConfig) -> float | None:
    """Probability that boxes from a score map are good (mean IoU with the true ones at least 0.5); None without evidence."""
    if not evidence:
        return None
    logit = config.bias + sum(weight * evidence[name] for name, weight in config.weights.items())
    return round(1 / (1 + math.exp(-max(-30.0, min(30.0, logit)))), 3)
