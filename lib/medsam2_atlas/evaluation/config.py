"""Settings of the scores; values in `configs/evaluation.yaml`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource


class EvaluationConfig(Settings):
    """Settings of the comparison of label maps. Scores are comparable only if they were made with the same settings."""

    nsd_tolerance_mm: float = Field(
        2.0,
        gt=0,
        description="mm; tolerance of the normalised surface distance: surfaces within this distance agree; 2 mm is common for "
        "organs",
    )
    min_piece_share: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="share of an organ's voxels; smaller components of the ground truth are ignored when prompt errors are "
        "measured: a single voxel in the pelvis would extend a kidney's range down to it",
    )


@read_once
def evaluation_config(file: Path | None = None) -> EvaluationConfig:
    """Reads the settings from a file, by default `configs/evaluation.yaml`.

    Raises:
        InputError: if the file does not contain valid settings.
    """
    return read_config(EvaluationConfig, file or resource("configs/evaluation.yaml"), "configuration of the evaluation")
