"""The fields of a report that say how MedSAM2 ran."""

from __future__ import annotations

from typing import Any

from medsam2_atlas.base.choices import Mode
from medsam2_atlas.base.memory import ran_on
from medsam2_atlas.medsam2 import Weights, describe_engine, engine_mode


def engine_fields(weights: Weights, mode: Mode) -> dict[str, Any]:
    """Returns device, precision, mode, engine, weights and their mark, for the report of a result without a U-Net.

    Args:
        weights: the weights, on the device of the case.
        mode: the mode of the engine.
    """
    found = ran_on(weights.device, medsam2=True, unet=False, **engine_mode(mode)) | {"device": str(weights.device)}
    engine = {"mode": mode, "engine": describe_engine(weights.device), "weights": weights.describe()}
    return found | engine | ({"mark": weights.mark} if weights.mark else {})
