"""The registrations `keypoints` and `both`: an image joins the keypoints of a group, and may then be registered densely."""

from __future__ import annotations

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.progress import Progress, part, silent
from medsam2_atlas.registration.config import RegistrationConfig
from medsam2_atlas.registration.deformable import deform
from medsam2_atlas.registration.keypoints.detect import keypoints_of
from medsam2_atlas.registration.keypoints.group import FewMatchesError, join_group
from medsam2_atlas.registration.keypoints.keypoint import Landmarks
from medsam2_atlas.registration.transform import Transform
from medsam2_atlas.registration.work_image import WorkImage


def register(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig, progress: Progress = silent) -> Transform:
    """Returns the transform from the fixed to the moving image's world points (x, y, z in mm, LPS).

    If one of the images is the mean image of a common space, the other one joins the keypoints of that space's images.

    Args:
        fixed: the fixed image.
        moving: the moving image.
        config: the registration parameters.
        progress: called with the stage and the fraction completed.

    Raises:
        InputError: too few keypoints of the images match.
    """
    progress("registration", 0.0)
    if fixed.landmarks is not None and moving.landmarks is None:
        return _half(moving, fixed.landmarks, config, progress).inverse()
    group = moving.landmarks or _alone(moving, config)
    return _half(fixed, group, config, progress)


def register_both(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig, progress: Progress = silent) -> Transform:
    """Returns the transform from the fixed to the moving image's world points (x, y, z in mm, LPS).

    The dense deformable stage starts from the result of the keypoints.

    Args:
        fixed: the fixed image.
        moving: the moving image.
        config: the registration parameters.
        progress: called with the stage and the fraction completed.

    Raises:
        InputError: too few keypoints of the images match.
    """
    start = register(fixed, moving, config, part(progress, 0.0, 0.4))
    return deform(fixed.around_body(), moving, start, config, part(progress, 0.4, 1.0))


def _alone(image: WorkImage, config: RegistrationConfig) -> Landmarks:
    """Returns the keypoints of an image as those of a group of one."""
    return Landmarks((keypoints_of(image.at_spacing(config.spacing), config.keypoints),))


def _half(image: WorkImage, group: Landmarks, config: RegistrationConfig, progress: Progress) -> Transform:
    image = image.at_spacing(config.spacing)
    found = keypoints_of(image, config.keypoints)
    progress("registration", 0.2)
    try:
        return join_group(
            found, image.around_body().corners(), group, config.spacing, config.keypoints, part(progress, 0.2, 1.0)
        )
    except FewMatchesError as error:
        raise few_matches(error, config) from error


def few_matches(error: FewMatchesError, config: RegistrationConfig) -> InputError:
    """Returns the error of an image with too few matches, for users."""
    return InputError(
        "CT",
        f"has only {error.matches} keypoints that match those of the other CTs; {config.keypoints.min_matches} are needed.",
        "Register densely (--registration dense), or give a CT that shows more of the trunk.",
    )
