"""Settings of atlases; values in `configs/atlas.yaml`, with their reasons.

The grids of shares (3 mm) and thumbnails (12 mm) are no parameters: stored atlases rely on them, see `reference`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.resource import resource
from medsam2_atlas.registration.config import Window


class OutlierConfig(BaseModel):
    """Limits beyond which a reference is refused; see `outlier.outlying`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spreads: float = Field(
        4.0,
        ge=0,
        description="robust standard deviations (1.4826 times the median absolute deviation) that a reference may be off",
    )
    min_spread: float = Field(
        0.06,
        ge=0,
        description="Dice; smallest standard deviation: references that agree closely by chance do not narrow the limit "
        "further",
    )
    min_distance: float = Field(
        60.0, ge=0, description="mm that an organ may always be off: bladder and stomach of sound references are"
    )
    swapped_inside: float = Field(
        0.5, ge=0, le=1, description="share of an organ inside another one's place from which labels may be swapped"
    )
    swapped_left: float = Field(0.1, ge=0, le=1, description="share of the organ in its own place below which they are")


class ThumbnailConfig(BaseModel):
    """How thumbnails of CTs are compared; see `reference.thumbnail_distance`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: Window = Field(
        (-200.0, 300.0), description="HU that are compared: lung and dense bone beyond would decide by their size alone"
    )
    min_voxels: int = Field(
        50, ge=2, description="voxels that both show, below which CTs count as unrelated: a correlation over fewer says nothing"
    )


class AtlasConfig(BaseModel):
    """Parameters of the comparison of references with each other and with targets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_agreement: float = Field(
        0.05,
        ge=0,
        le=1,
        description="mean Dice with all others; below it, a warning names the reference: its organs overlap with theirs "
        "by chance at most",
    )
    outlier: OutlierConfig = OutlierConfig.model_validate({})
    thumbnail: ThumbnailConfig = ThumbnailConfig.model_validate({})


@cache
def atlas_config(file: Path | None = None) -> AtlasConfig:
    """Returns the parameters in `configs/atlas.yaml`, or in another file.

    Raises:
        InputError: the file does not hold valid parameters.
    """
    return read_config(AtlasConfig, file or resource("configs/atlas.yaml"), "atlas configuration")
