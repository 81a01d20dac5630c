"""The registrations that can be chosen (`method` in `configs/registration.yaml`).

Another registration is a module with a function `register(fixed, moving, config, progress) -> Transform`, and a line here.
`Registration` tells what the function must do. Modules are imported when their method is used.
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
    "convex_adam": "medsam2_atlas.registration.convex_adam:register",
}
"""Module and function of each registration, by name."""


class Registration(Protocol):
    """A way to register two images.

    It takes images of any extent that share some anatomy, and never their labels. It must be deterministic: stored
    registrations are found by the images and the parameters. Its maps must be affine maps and displacement fields, which
    `Transform` can store and invert.
    """

    def __call__(self, fixed: WorkImage, moving: WorkImage, config: RegistrationConfig, progress: Progress) -> Transform:
        """Returns the transform from world points of the fixed image to those of the moving one (x, y, z in mm, LPS)."""
        ...


def registration_of(method: str) -> Registration:
    """Returns the registration of a name in `METHODS`."""
    module, function = METHODS[method].split(":")
    return cast(Registration, getattr(import_module(module), function))
