"""The published method: makes all steps of this process follow it, as far as the project has them.

The folder `configs/as_published/` contains its settings, as an overlay (`base.overlay`): they replace the user's, and all other
settings stay as they are. `docs/method.md` lists each difference from the defaults, and the differences that remain.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from medsam2_atlas.base.choices import Loop, Mode, RegistrationMethod, ThresholdRule
from medsam2_atlas.base.overlay import use_overlay
from medsam2_atlas.base.resource import resource

if TYPE_CHECKING:
    from medsam2_atlas.segmenters.base import Options

FOLDER = "configs/as_published"
LOOP: Loop = "published"
MODE: Mode = "exact"
THRESHOLDS: ThresholdRule = "published"
REGISTRATION: RegistrationMethod = "keypoints"
"""The registration that `configs/as_published/registration.yaml` sets."""


def use_published_method() -> None:
    """Makes all settings that are read from now on those of the published method.

    A command calls this first, before it reads settings or makes objects that have read them. A process that it starts calls it
    again. Options are separate; see `published_options`.

    Raises:
        InputError: the settings in `configs/as_published/` are incomplete.
    """
    use_overlay(resource(FOLDER))


def published_options(options: Options) -> Options:
    """Returns the options with the loop, mode and threshold rule of the published method."""
    return replace(options, loop=LOOP, mode=MODE, thresholds=THRESHOLDS)
