"""The confidence of a prompt from score maps: logistic regression on the evidence, calibrated by `bench/confidence.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource


class ConfidenceConfig(Settings):
    """The model ln(p / (1 − p)) = bias + Σ weight · evidence + restored · evidence of `restored`.

    p is the probability that the boxes have a mean IoU of at least 0.5 with the true boxes.
    """

    bias: float = Field(-4.482, description="log odds if all evidence is 0; fitted by bench/confidence.py")
    weights: dict[str, float] = Field(
        {"certain": 6.406, "kept": 1.28, "size": -0.777, "similar": -0.925, "agreement": 0.625, "visible": 0.864},
        description="log odds per unit of each measure of evidence (scoremaps/evidence.py); fitted by bench/confidence.py",
    )
    restored: float = Field(
        -1.5,
        description="log odds per unit of the evidence `restored`: assumed, as the cases of the fit had no restored organs",
    )


@read_once
def confidence_config(file: Path | None = None) -> ConfidenceConfig:
    """Returns the weights in `configs/confidence.yaml`, or in another file.

    Raises:
        InputError: the file does not contain valid weights.
    """
    return read_config(ConfidenceConfig, file or resource("configs/confidence.yaml"), "confidence configuration")


def confidence(evidence: Mapping[str, float], config: ConfidenceConfig) -> float | None:
    """Returns the probability that boxes from a score map have a mean IoU of at least 0.5; None without evidence.

    Examples:
        >>> confidence({"certain": 0.5}, ConfidenceConfig(bias=-1.0, weights={"certain": 2.0}))
        0.5
    """
    if not evidence:
        return None
    logit = config.bias + sum(weight * evidence[name] for name, weight in config.weights.items())
    logit += config.restored * evidence.get("restored", 0.0)
    return round(1 / (1 + math.exp(-max(-30.0, min(30.0, logit)))), 3)
