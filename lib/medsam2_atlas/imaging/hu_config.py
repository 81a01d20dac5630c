"""Settings of the check whether a CT's values are Hounsfield units; values in `configs/hounsfield.yaml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.resource import resource


class HuCheckConfig(Settings):
    """When a CT's values are no HU, and when they have a known offset. Shares are those of all voxels but padding, 0 to 1."""

    min_soft_tissue: float = Field(
        0.005,
        ge=0,
        le=1,
        description="share of soft tissue (-150 to 150 HU); with less, it is no CT of a patient. Low enough for a small child "
        "in a field of view of 50 cm, which has some percent",
    )
    min_air: float = Field(
        0.002,
        ge=0,
        le=1,
        description="share of air (-1100 to -850 HU); with less, there must be fat, lung, or nothing but an organ. Low enough "
        "for a crop of the lung",
    )
    min_fat: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of fat or lung in a crop inside the body without air; 8-bit images and MR have no negative value",
    )
    min_organ: float = Field(
        0.9, ge=0, le=1, description="share of soft tissue from which a crop without air and fat may lie inside one organ"
    )
    min_organ_span: float = Field(
        50.0,
        ge=0,
        description="HU that 98 % of the values in such a crop span at least; normalised values (-1 to 1, deviation 1) span "
        "less",
    )
    max_empty: float = Field(0.9, ge=0, le=1, description="share of air from which a CT without soft tissue shows no body")
    max_dense: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of voxels denser than bone (850 HU) that no body has; three patients' CTs have 0.0006 to 0.003",
    )
    max_dark: float = Field(
        0.05, ge=0, le=1, description="share of voxels darker than air that no body has, if it has less soft tissue than this"
    )
    min_clipped: float = Field(
        0.03,
        ge=0,
        le=1,
        description="share of exactly the lowest value from which values have been clipped, such as to a soft-tissue window",
    )
    min_masked: float = Field(
        0.2, ge=0, le=1, description="share of one exact value from which the values have been masked with it"
    )
    min_padding: float = Field(
        0.005, ge=0, le=1, description="share of exactly the lowest value, below air, from which it is padding, and left out"
    )
    min_shifted: float = Field(
        0.03,
        ge=0,
        le=1,
        description="share of shifted soft tissue from which an offset is looked for; three patients' CTs have 0.0003 to 0.002"
        " at 850 to 1200 HU (dense bone)",
    )
    min_surely_shifted: float = Field(
        0.15,
        ge=0,
        le=1,
        description="share of shifted soft tissue from which fat at its own HU does not speak against an offset; a crop of the"
        " pelvis with a bladder full of contrast may have more than min_shifted, but also has fat",
    )
    max_darker: float = Field(
        0.02,
        ge=0,
        le=1,
        description="share of voxels darker than soft tissue; with more, values are not too high: HU have lung and air there",
    )
    max_beyond_bone: float = Field(
        0.05, ge=0, le=1, description="share of voxels above 3200; with more, values are scaled, not shifted"
    )
    min_trough_ratio: float = Field(
        1.5,
        ge=0,
        description="ratio of shifted soft tissue to what has 424 to 774 HU; with less, it is dense bone or contrast, of which "
        "the less dense is more frequent",
    )
    max_unshifted: float = Field(
        0.01, ge=0, le=1, description="share of soft tissue (-100 to 150 HU); with more, values are not too low"
    )
    max_filled: float = Field(
        0.25,
        ge=0,
        le=1,
        description="share of air with exactly one value; with more, that value was filled in outside the field of view, and "
        "tells no peak",
    )
    peak_tolerance: float = Field(
        10.0, gt=0, lt=12, description="HU between the peak of air or fat and its place; two known offsets differ by 24"
    )
    min_outer_air: float = Field(
        0.15, ge=0, le=1, description="share of air from which it lies around the patient, not in bowel and lung"
    )
    min_fat_peak: float = Field(0.05, ge=0, le=1, description="share of fat from which its peak is its own")


@cache
def hu_check_config(file: Path | None = None) -> HuCheckConfig:
    """Returns the settings in `configs/hounsfield.yaml`, or in another file.

    Raises:
        InputError: the file does not hold valid settings.
    """
    return read_config(HuCheckConfig, file or resource("configs/hounsfield.yaml"), "configuration of the check of HU")
