"""Settings of atlases; `configs/atlas.yaml` has their values and reasons.

The grids of shares (3 mm) and thumbnails (12 mm) are not settings, because stored atlases depend on them; see `reference`.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource
from medsam2_atlas.registration.config import Window


class OutlierConfig(BaseModel):
    """The limits beyond which a reference is refused; see `outlier.outlying`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spreads: float = Field(
        4.0,
        ge=0,
        description="max deviation of a reference from the median, in robust standard deviations (1.4826 times the "
        "median absolute deviation)",
    )
    min_spread: float = Field(
        0.06,
        ge=0,
        description="Dice; min standard deviation, so that references which agree closely by chance do not narrow the limit",
    )
    min_distance: float = Field(
        60.0,
        ge=0,
        description="mm; distance that is always accepted: bladder and stomach of good references can be this far off",
    )
    swapped_inside: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of an organ inside the region of another organ above which their labels may be swapped",
    )
    swapped_left: float = Field(
        0.1, ge=0, le=1, description="share of the organ inside its own region below which the labels then count as swapped"
    )


class ThumbnailConfig(BaseModel):
    """How thumbnails of CTs are compared; see `reference.thumbnail_distance`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: Window = Field(
        (-200.0, 300.0), description="HU; range that is compared, without lung and dense bone, whose sizes would dominate"
    )
    min_voxels: int = Field(
        50,
        ge=2,
        description="min number of common voxels; with fewer, CTs count as unrelated: a correlation would be meaningless",
    )


class SexConfig(BaseModel):
    """How the sex of a reference is guessed from its label map; see `sex.guessed_sex`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bladder_end: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="share of the bladder that may lie below its lower end: a full bladder surrounds the top of a prostate",
    )
    min_uterus: float = Field(
        0.7,
        gt=0,
        le=1,
        description="min share of organ 15 above the bladder's lower end for a uterus; 1.0 in two label maps of women",
    )
    max_prostate: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="max share of organ 15 above the bladder's lower end for a prostate; at most 0.18 in 5 label maps of men",
    )


class AtlasConfig(BaseModel):
    """Parameters for comparing references with each other and with targets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_agreement: float = Field(
        0.05,
        ge=0,
        le=1,
        description="min mean Dice with all other references; below it, a warning names the reference: its organs overlap "
        "those of the others by chance only",
    )
    outlier: OutlierConfig = OutlierConfig.model_validate({})
    thumbnail: ThumbnailConfig = ThumbnailConfig.model_validate({})
    sex: SexConfig = SexConfig.model_validate({})


@read_once
def atlas_config(file: Path | None = None) -> AtlasConfig:
    """Returns the parameters in `configs/atlas.yaml`, or in another file.

    Raises:
        InputError: the file does not contain valid parameters.
    """
    return read_config(AtlasConfig, file or resource("configs/atlas.yaml"), "atlas configuration")
