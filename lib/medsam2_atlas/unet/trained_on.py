"""The cases that a U-Net's weights have seen."""

from __future__ import annotations

from pathlib import Path

from medsam2_atlas.base.files import text_of
from medsam2_atlas.base.json_text import from_json
from medsam2_atlas.unet.energy import STATS_FILE


def training_cases_of(weights: Path) -> list[str]:
    """Returns the names of the training and validation cases of weights; empty if they are unknown.

    They are read from `stats.json` in the folder of the weights, which a training run writes.

    Args:
        weights: a weights file, such as `best.pt` of a run.
    """
    try:
        stats = from_json(text_of(weights.with_name(STATS_FILE)))
    except (OSError, ValueError):
        return []
    listed = [stats.get(key) for key in ("train_cases", "validation_cases")] if isinstance(stats, dict) else []
    return [name for names in listed if isinstance(names, list) for name in names if isinstance(name, str)]
