"""The default registration: pre-alignment, affine stage, coupled-convex search, refinement by Adam."""

from __future__ import annotations

from medsam2_atlas.base.progress import Progress, part, silent
from medsam2_atlas.registration.affine import refine_affine
from medsam2_atlas.registration.config import RegistrationConfig
from medsam2_atlas.registration.deformable import deform
from medsam2_atlas.registration.prealign import prealign
from medsam2_atlas.registration.transform import Transform
from medsam2_atlas.registration.work_image import WorkImage


def register(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig, progress: Progress = silent) -> Transform:
    """Returns the transform from the fixed to the moving image's world points (x, y, z in mm, LPS).

    The deformable stage follows Siebert, Hansen and Heinrich (Learn2Reg 2021) and ConvexAdam (2024); see `deformable`.

    Args:
        fixed: the fixed image.
        moving: the moving image.
        config: the registration parameters.
        progress: called with the stage and the fraction completed.
    """
    progress("registration", 0.0)
    fixed = fixed.around_body()
    start = prealign(fixed, moving, config)
    progress("registration", 0.2)
    start = refine_affine(fixed, moving, start, config, part(progress, 0.2, 0.5))
    return deform(fixed, moving, start, config, part(progress, 0.5, 1.0))
