"""Settings of segmentation from a person's marks; values in `configs/marks.yaml`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource

INTERACTIVE = "medsam2"
"""Name of the segmenter that a person's marks prompt."""


class MarksConfig(Settings):
    """Settings that control propagation from marked slices, and the correction of masks by a person's points."""

    max_gap_mm: float = Field(
        12.0,
        gt=0,
        description="mm along z; propagation stops if the organ is absent over more than this distance; it continues across "
        "smaller gaps",
    )
    min_certainty: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the mean logit inside the masks of marked slices; a slice with a smaller mean logit counts as "
        "one without the organ, because the network is then following another structure, or soon will be",
    )
    min_inner_depth: float = Field(
        0.6,
        gt=0,
        le=1,
        description="share of the max depth of a component of the mask; a point off the organ that lies deeper removes the "
        "whole component, because so deep a point cannot be a correction of the border",
    )
    max_radius_mm: float = Field(
        15.0, gt=0, description="mm in plane; a point on the organ adds pixels up to this distance: it is a local correction"
    )
    max_hu_difference: float = Field(
        40.0,
        gt=0,
        description="HU; a point on the organ adds pixels that differ from the median around it by at most this: about the "
        "noise of a CT and the contrast within an organ",
    )
    min_changed_share: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="share of a pixel at the network's mask resolution; a pixel keeps its logit if points change less of it",
    )
    certain_logit: float = Field(
        8.0,
        gt=0,
        description="logit of the pixels that a point has changed: a probability of .9997, because points count as certain",
    )
    max_mask_slices: int = Field(
        4,
        ge=1,
        le=32,
        description="max number of slices of a given mask that condition a slice; more take more time",
    )
    min_change_mm: float = Field(
        4.0,
        gt=0,
        description="mm in plane; around a correction, a given mask changes only where the network differs from it by at least "
        "this, because thinner differences are those of its border",
    )
    max_slope: float = Field(
        1.0,
        gt=0,
        description="mm in plane per mm along z; from slice to slice, a change of a given mask may grow by at most this, so "
        "that an error of the network does not spread",
    )


@read_once
def marks_config(file: Path | None = None) -> MarksConfig:
    """Reads the settings from a file, by default `configs/marks.yaml`.

    Raises:
        InputError: if the file does not contain valid settings.
    """
    return read_config(MarksConfig, file or resource("configs/marks.yaml"), "configuration of marks")
