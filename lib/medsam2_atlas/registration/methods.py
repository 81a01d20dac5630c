"""The available registrations (`method` in `configs/registration.yaml`).

To add one, write a module with a function `register(fixed, moving, config, progress) -> Transform` and add a line here.
`Registration` states the requirements. A module is imported when its method is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from medsam2_atlas.base.progress import Progress
    from medsam2_atlas.registration.config import RegistrationConfig
    from medsam2_atlas.registration.transform import Transform
    from medsam2_atlas.registration.work_image import WorkImage

METHODS: dict[str, str] = {
    "dense": "medsam2_atlas.registration.convex_adam:register",
    "keypoints": "medsam2_atlas.registration.keypoints.register:register",
    "both": "medsam2_atlas.registration.keypoints.register:register_both",
}
"""The module and function of each registration, by name."""

OLD_NAMES = {"convex_adam": "dense"}
"""The current name of each registration that had another name; settings and stored atlases may contain the old one."""

DEFAULT_METHOD = "dense"
"""The default registration, and that of stored atlases that name none."""

BY_KEYPOINTS = ("keypoints", "both")
"""The registrations that compare a target's keypoints with those of the references."""


class Registration(Protocol):
    """A function that registers two images.

    The images may have any extent, but must share some anatomy. A registration never reads labels. It must be deterministic,
    because stored registrations are found by their images and parameters. Its transform may contain only affine maps and
    displacement fields, which `Transform` can store and invert.
    """

    def __call__(self, fixed: WorkImage, moving: WorkImage, config: RegistrationConfig, progress: Progress) -> Transform:
        """Returns the transform from the fixed to the moving image's world points (x, y, z in mm, LPS)."""
        ...


def registration_of(method: str) -> Registration:
    """Returns the registration with a name in `METHODS`; imports its module.

    Raises:
        KeyError: there is no registration of this name.
    """
    module, function = METHODS[method].split(":")
    return cast(Registration, getattr(import_module(module), function))
