"""Settings of segmentation from a person's marks; values in `configs/marks.yaml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.resource import resource


class MarksConfig(Settings):
    """How an organ is followed from marked slices, and how masks are made to agree with a person's points."""

    max_gap_mm: float = Field(
        12.0, gt=0, description="mm along z; an organ is followed this far after it went out of sight: it may come back"
    )
    min_certainty: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the mean logit within the masks of marked slices; with less, a slice does not show the organ: "
        "the network follows something else there, or is about to",
    )
    min_inner_depth: float = Field(
        0.6,
        gt=0,
        le=1,
        description="share of the largest depth of a piece of the mask; a point off the organ that lies deeper takes the whole"
        " piece away, since it cannot mean the piece's border",
    )
    max_radius_mm: float = Field(
        15.0, gt=0, description="mm in plane; what a missed point on the organ adds lies no farther from it: it is a correction"
    )
    max_hu_difference: float = Field(
        40.0,
        gt=0,
        description="HU; what a missed point on the organ adds differs no more from the median around the point: about the "
        "noise of a CT and the contrast within an organ",
    )
    min_changed_share: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="share of a pixel of the network's mask resolution; where a point changes less of it, its logit stays",
    )
    certain_logit: float = Field(
        8.0, gt=0, description="logit of the pixels that a point has changed, a probability of .9997: a person is right"
    )


@cache
def marks_config(file: Path | None = None) -> MarksConfig:
    """Returns the settings in `configs/marks.yaml`, or in another file.

    Raises:
        InputError: the file does not hold valid settings.
    """
    return read_config(MarksConfig, file or resource("configs/marks.yaml"), "configuration of marks")
