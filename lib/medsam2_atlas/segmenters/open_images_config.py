"""Limits on the memory for CTs that stay open between cases; values in `configs/open_images.yaml`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource


class OpenImagesConfig(Settings):
    """The memory for the encoded slices of CTs that stay open, so that a correction does not encode them again.

    A CT that is being segmented may need more meanwhile; it is closed afterwards. Results do not depend on these settings.
    """

    max_gib: float = Field(
        2.5,
        ge=0,
        description="GiB of main memory; 0 keeps no CT open. With MedSAM2's official network, a slice needs 6 MiB",
    )
    max_gpu_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="share of a GPU's memory, for slices that are stored there; 0 keeps no CT open on a GPU",
    )


@read_once
def open_images_config(file: Path | None = None) -> OpenImagesConfig:
    """Reads the settings from a file, by default `configs/open_images.yaml`.

    Raises:
        InputError: if the file does not contain valid settings.
    """
    return read_config(OpenImagesConfig, file or resource("configs/open_images.yaml"), "configuration of open images")
