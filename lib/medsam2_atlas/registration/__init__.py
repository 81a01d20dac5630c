"""Registration by dense descriptors or by keypoints, the transforms of both, and a common space for several images.

The contract is `register(fixed, moving, config, progress) -> Transform`. The function takes two CTs on their working grids and
returns the transform from world points of the fixed CT to world points of the moving CT. `config.method` names the
registration. To add one, write a module with such a function and add a line to `methods.METHODS`; `methods.Registration`
states the requirements.
"""

from medsam2_atlas.registration.affine import refine_affine
from medsam2_atlas.registration.box_mean import box_mean
from medsam2_atlas.registration.cache import RegistrationCache
from medsam2_atlas.registration.config import RegistrationConfig, registration_config
from medsam2_atlas.registration.features import mean_descriptors
from medsam2_atlas.registration.groupwise import CommonSpace, UnregisteredError, build_common_space, mean_of_warped
from medsam2_atlas.registration.keypoints import Keypoints, Landmarks
from medsam2_atlas.registration.keypoints.detect import keypoints_of
from medsam2_atlas.registration.mean_descriptors import MeanDescriptors
from medsam2_atlas.registration.methods import BY_KEYPOINTS, DEFAULT_METHOD, METHODS, OLD_NAMES, Registration
from medsam2_atlas.registration.prealign import prealign
from medsam2_atlas.registration.register import register
from medsam2_atlas.registration.transform import Affine, Displacement, Transform, geometry_points, grid_points, sample
from medsam2_atlas.registration.work_image import WorkImage

__all__ = [
    "Affine",
    "BY_KEYPOINTS",
    "CommonSpace",
    "DEFAULT_METHOD",
    "Displacement",
    "Keypoints",
    "Landmarks",
    "METHODS",
    "MeanDescriptors",
    "OLD_NAMES",
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
    "keypoints_of",
    "mean_descriptors",
    "mean_of_warped",
    "prealign",
    "refine_affine",
    "register",
    "registration_config",
    "sample",
]
