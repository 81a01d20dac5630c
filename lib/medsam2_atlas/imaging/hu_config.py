"""Settings of the check that a CT's values are Hounsfield units. Their values are in `configs/hounsfield.yaml`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource


class HuCheckConfig(Settings):
    """Limits that decide whether a CT's values are HU, and whether they have a known offset.

    A fraction, 0 to 1, counts voxels; its denominator is all voxels except padding.
    """

    min_soft_tissue: float = Field(
        0.005,
        ge=0,
        le=1,
        description="min fraction of soft tissue (-150 to 150 HU) in a CT of a patient. A small child in a field of view of "
        "50 cm has a few percent",
    )
    min_air: float = Field(
        0.002,
        ge=0,
        le=1,
        description="min fraction of air (-1100 to -850 HU); an image with less must contain fat or lung, or be a crop of one "
        "organ. A crop of the lung has more",
    )
    min_fat: float = Field(
        0.01,
        ge=0,
        le=1,
        description="min fraction of fat or lung in a crop inside the body without air; 8-bit images and MR have no negative "
        "values",
    )
    min_organ: float = Field(
        0.9, ge=0, le=1, description="min fraction of soft tissue in a crop inside one organ, which contains no air and no fat"
    )
    min_organ_span: float = Field(
        50.0,
        ge=0,
        description="min range of 98 % of the values in such a crop, in HU; normalised values (-1 to 1, deviation 1) have a "
        "smaller range",
    )
    max_empty: float = Field(
        0.9, ge=0, le=1, description="max fraction of air; a CT with more air and no soft tissue shows no body"
    )
    max_dense: float = Field(
        0.2,
        ge=0,
        le=1,
        description="max fraction of voxels denser than bone (850 HU); three patients' CTs have 0.0006 to 0.003",
    )
    max_dark: float = Field(
        0.05,
        ge=0,
        le=1,
        description="max fraction of voxels darker than air; checked only if soft tissue is below the same fraction",
    )
    min_clipped: float = Field(
        0.03,
        ge=0,
        le=1,
        description="min fraction of voxels with exactly the lowest value that shows clipping, such as to a soft-tissue window",
    )
    min_masked: float = Field(
        0.2, ge=0, le=1, description="min fraction of voxels with exactly one value that shows that the CT was masked with it"
    )
    min_padding: float = Field(
        0.005,
        ge=0,
        le=1,
        description="min fraction of voxels with exactly the lowest value that marks it as padding, if it is below air",
    )
    min_shifted: float = Field(
        0.03,
        ge=0,
        le=1,
        description="min fraction of shifted soft tissue that suggests an offset; three patients' CTs have 0.0003 to 0.002 at "
        "850 to 1200 HU (dense bone)",
    )
    min_surely_shifted: float = Field(
        0.15,
        ge=0,
        le=1,
        description="min fraction of shifted soft tissue that proves an offset even if there are values with the HU of fat; a "
        "crop of the pelvis with a bladder full of contrast medium may exceed min_shifted, but contains fat",
    )
    max_darker: float = Field(
        0.02,
        ge=0,
        le=1,
        description="max fraction of voxels darker than soft tissue in values that are too high; HU of lung and air are darker",
    )
    max_beyond_bone: float = Field(
        0.05, ge=0, le=1, description="max fraction of voxels above 3200 in shifted values; scaled values have more"
    )
    min_trough_ratio: float = Field(
        1.5,
        ge=0,
        description="min ratio of shifted soft tissue to voxels of 424 to 774 HU; for dense bone or contrast medium the ratio "
        "is smaller, as their less dense parts are more frequent",
    )
    max_unshifted: float = Field(
        0.01, ge=0, le=1, description="max fraction of soft tissue (-100 to 150 HU) in values that are too low"
    )
    max_filled: float = Field(
        0.25,
        ge=0,
        le=1,
        description="max fraction of air voxels with exactly one value; a more frequent value was filled in outside the field "
        "of view, and is ignored",
    )
    peak_tolerance: float = Field(
        10.0,
        gt=0,
        lt=12,
        description="max distance in HU of a peak (air or fat) from its known HU; two known offsets differ by 24",
    )
    min_outer_air: float = Field(
        0.15, ge=0, le=1, description="min fraction of air around the patient; bowel and lung contain less"
    )
    min_fat_peak: float = Field(0.05, ge=0, le=1, description="min fraction of fat that gives a reliable peak")


@read_once
def hu_check_config(file: Path | None = None) -> HuCheckConfig:
    """Returns the settings in `configs/hounsfield.yaml`, or in another file.

    Raises:
        InputError: the file does not contain valid settings.
    """
    return read_config(HuCheckConfig, file or resource("configs/hounsfield.yaml"), "configuration of the check of HU")
