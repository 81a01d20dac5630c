"""Registers one image to another by the configured method."""

from __future__ import annotations

from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.registration.config import RegistrationConfig
from medsam2_atlas.registration.methods import registration_of
from medsam2_atlas.registration.transform import Transform
from medsam2_atlas.registration.work_image import WorkImage


def register(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig, progress: Progress = silent) -> Transform:
    """Returns the transform from the fixed to the moving image's world points (x, y, z in mm, LPS), by `config.method`.

    Args:
        fixed: the fixed image, on a grid of `config.spacing` mm or finer.
        moving: the moving image, on a grid of `config.spacing` mm or finer.
        config: the registration parameters.
        progress: called with the stage and the fraction completed.
    """
    fixed, moving = fixed.with_config(config.image), moving.with_config(config.image)
    return registration_of(config.method)(fixed, moving, config, progress)
