"""A step from a target to its score maps, and the settings common to all steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from medsam2_atlas.base.configuration import Settings
from medsam2_atlas.base.progress import Progress

if TYPE_CHECKING:
    from medsam2_atlas.scoremaps.config import FusionConfig


class StepConfig(Settings):
    """Settings of a step."""

    enabled: bool = Field(True, description="whether the step runs")


def unchanged(value: Any) -> Any:
    """Returns the value unchanged, in place of a disabled step that would correct it."""
    return value


@dataclass(frozen=True)
class Step:
    """A step, which takes one value and returns the next.

    Attributes:
        name: the name of its settings in `configs/fusion.yaml` and in `FusionConfig`.
        run: returns the next value, given the previous value, the settings of all steps and the progress.
        skip: returns the next value if the step is disabled.
    """

    name: str
    run: Callable[[Any, FusionConfig, Progress], Any]
    skip: Callable[[Any], Any] = unchanged

    def __call__(self, value: Any, config: FusionConfig, progress: Progress) -> Any:
        """Runs the step, or skips it if its settings disable it, and returns the next value."""
        settings: StepConfig = getattr(config, self.name)
        return self.run(value, config, progress) if settings.enabled else self.skip(value)
