"""The project's own registration: pre-alignment, affine, then coupled-convex search with Adam's refinement."""

from __future__ import annotations

from medsam2_atlas.base.progress import Progress, part, silent
from medsam2_atlas.registration.affine import refine_affine
from medsam2_atlas.registration.config import RegistrationConfig
from medsam2_atlas.registration.deformable import deform
from medsam2_atlas.registration.prealign import prealign
from medsam2_atlas.registration.transform import Transform
from medsam2_atlas.registration.work_image import WorkImage


def register(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig, progress: Progress = silent) -> Transform:
    """Returns the transform from world points of the fixed image to those of the moving one; deterministic."""
    progress("registration", 0.0)
    fixed = fixed.around_body()
    start = prealign(fixed, moving, config)
    progress("registration", 0.2)
    start = refine_affine(fixed, moving, start, config, part(progress, 0.2, 0.5))
    return deform(fixed, moving, start, config, part(progress, 0.5, 1.0))
