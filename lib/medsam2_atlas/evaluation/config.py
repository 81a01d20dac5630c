"""Settings of the measures of agreement; values in `configs/evaluation.yaml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.resource import resource


class EvaluationConfig(Settings):
    """How label maps are compared. Scores are comparable only if they were made with the same settings."""

    nsd_tolerance_mm: float = Field(
        2.0,
        gt=0,
        description="mm; surfaces no farther apart agree, in the normalised surface distance; a usual value for organs",
    )
    min_piece_share: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="share of an organ's voxels; smaller pieces of a true label map do not count for the errors of prompts: "
        "one voxel in the pelvis would stretch a kidney's range down to it",
    )


@cache
def evaluation_config(file: Path | None = None) -> EvaluationConfig:
    """Returns the settings in `configs/evaluation.yaml`, or in another file.

    Raises:
        InputError: the file does not hold valid settings.
    """
    return read_config(EvaluationConfig, file or resource("configs/evaluation.yaml"), "configuration of the evaluation")
