"""Registers one image to another by the method that is configured."""

from __future__ import annotations

from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.registration.config import RegistrationConfig
from medsam2_atlas.registration.methods import registration_of
from medsam2_atlas.registration.transform import Transform
from medsam2_atlas.registration.work_image import WorkImage


def register(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig, progress: Progress = silent) -> Transform:
    """Returns the transform from world points of the fixed image to those of the moving one, by `config.method`.

    Args:
        fixed: on its working grid, of `config.spacing` or finer.
        moving: as `fixed`.
        config: registration parameters.
        progress: called with the stage and the fraction completed.
    """
    fixed, moving = fixed.with_config(config.image), moving.with_config(config.image)
    return registration_of(config.method)(fixed, moving, config, progress)
