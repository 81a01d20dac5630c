"""The step `align`: registers a target to the atlas' common space.

To add a registration, write a module and add a line to `registration/methods.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from medsam2_atlas.atlas.atlas import Atlas
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.progress import Progress
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.registration import RegistrationCache, RegistrationConfig, Transform, WorkImage, register
from medsam2_atlas.scoremaps.step import StepConfig


class AlignConfig(StepConfig):
    """Whether a target is registered. `configs/registration.yaml` has the registration parameters.

    If the step is disabled, the target must already lie in the common space.
    """


@dataclass(frozen=True)
class Target:
    """A CT to segment, and the inputs of its registration.

    Attributes:
        image: the CT in HU.
        atlas: the atlas whose references vote on the CT.
        registration: the registration parameters.
        cache: stores registrations to the same common space.
    """

    image: Volume
    atlas: Atlas
    registration: RegistrationConfig
    cache: RegistrationCache | None = None


@dataclass(frozen=True)
class Alignment:
    """A target that is registered to the common space of an atlas.

    Attributes:
        target: the CT in HU.
        work: the CT on its working grid.
        atlas: the atlas to whose common space it is registered.
        transform: the transform from the target's world points to the common space's (x, y, z in mm, LPS).
        inverse: the inverse of `transform`.
    """

    target: Volume
    work: WorkImage
    atlas: Atlas
    transform: Transform
    inverse: Transform


def align(target: Target, progress: Progress) -> Alignment:
    """Registers a target, or reads its registration from the cache.

    Raises:
        InputError: the target shows no body, or too little of it, or too few of its keypoints match.
        AtlasError: the atlas lacks what the configured registration needs.
    """
    config, atlas, cache = target.registration, target.atlas, target.cache
    atlas.check_method(config.method)
    work = WorkImage.of(target.image, config.spacing, config.image)

    def make() -> Transform:
        try:
            return register(work, atlas.template, config, progress)
        except InputError as error:  # working images have no names
            raise InputError(target.image.source, error.problem, error.remedy) from error

    if cache is None:
        transform = make()
        return Alignment(target.image, work, atlas, transform, transform.inverse())
    key = f"{atlas.template_version}-{config.digest}/{target.image.digest}"
    transform = cache.get(key, make)
    return Alignment(target.image, work, atlas, transform, cache.get(f"{key}-inverse", transform.inverse))


def already_aligned(target: Target) -> Alignment:
    """Returns the alignment of a target that already lies in the common space.

    Raises:
        InputError: the target shows no body, or too little of it.
    """
    config = target.registration
    work = WorkImage.of(target.image, config.spacing, config.image)
    return Alignment(target.image, work, target.atlas, Transform(), Transform())
