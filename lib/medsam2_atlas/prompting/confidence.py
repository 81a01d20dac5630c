"""How sure a prompt from score maps is: logistic regression on the evidence, calibrated by `bench/confidence.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.resource import resource


class ConfidenceConfig(BaseModel):
    """ln(p / (1 − p)) = bias + Σ weight · evidence, p the probability that the boxes overlap the true ones by half or more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bias: float = Field(description="log odds without any evidence")
    weights: dict[str, float] = Field(description="per kind of evidence, see scoremaps/evidence.py")


@cache
def confidence_config(file: Path | None = None) -> ConfidenceConfig:
    """The weights in `configs/confidence.yaml`, or in another file.

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
