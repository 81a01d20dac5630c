"""Registration: pre-alignment, affine, deformable; the transforms they make; a common space for several images.

`register(fixed, moving, config, progress) -> Transform` is the contract: it takes two CTs on their working grids and returns
the transform from world points of the fixed one to those of the moving one. `config.method` chooses the registration. Another
one is a module with such a function and a line in `methods.METHODS`; `methods.Registration` tells what it must do.
"""

from medsam2_atlas.registration.affine import refine_affine
from medsam2_atlas.registration.box_mean import box_mean
from medsam2_atlas.registration.cache import RegistrationCache
from medsam2_atlas.registration.config import RegistrationConfig, registration_config
from medsam2_atlas.registration.features import mean_descriptors
from medsam2_atlas.registration.groupwise import CommonSpace, UnregisteredError, build_common_space
from medsam2_atlas.registration.mean_descriptors import MeanDescriptors
from medsam2_atlas.registration.methods import METHODS, Registration
from medsam2_atlas.registration.prealign import prealign
from medsam2_atlas.registration.register import register
from medsam2_atlas.registration.transform import Affine, Displacement, Transform, geometry_points, grid_points, sample
from medsam2_atlas.registration.work_image import WorkImage

__all__ = [
    "Affine",
    "CommonSpace",
    "Displacement",
    "METHODS",
    "MeanDescriptors",
    "Registration",
    "RegistrationCache",
    "RegistrationConfig",
    "Transform",
    "UnregisteredError",
    "WorkImage",
    "box_mean",
    "build_common_space",
    "geometry_points",
    "grid_points",
    "mean_descriptors",
    "prealign",
    "refine_affine",
    "register",
    "registration_config",
    "sample",
]
