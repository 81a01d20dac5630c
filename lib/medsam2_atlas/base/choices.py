"""Names that users choose from, on the command line and in code.

The module imports no library, so that a parser of arguments can offer the choices without loading what is behind them.
"""

from __future__ import annotations

import re
from typing import Literal

from medsam2_atlas.base.errors import InputError

PROMPTS = ("atlas", "unet", "both")
"""Sources of the first boxes: the atlas' score maps, the coarse masks of the first U-Net that can run, or per organ the better
of both. Names of trained segmenters are sources, too."""

ThresholdRule = Literal["atlas", "published", "adaptive"]
"""Which threshold turns a score map into a prompting region; see `scoremaps.threshold_of`."""

DEFAULT_THRESHOLDS: ThresholdRule = "atlas"
"""The default rule."""

Loop = Literal["symmetric", "published"]
"""How boxes condition the propagation through slices; see `medsam2.propagation`."""

Memory = Literal["", "small", "smallest", "cpu"]
"""How networks use a GPU's memory: as usual; `small`, with features and results in main memory; `smallest`, one step at a time
besides; `cpu`, not at all."""

Fusion = Literal["mean", "local", "joint"]
"""How references vote in the common space; see `scoremaps.voting`."""

MissingOrgan = Literal["unknown", "absent"]
"""Whether an organ that a reference's label map lacks is not annotated, or not present in the patient."""

Made = Literal["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC"]
"""How a label map was made, in DICOM's words (Segment Algorithm Type)."""


def device_name(name: str) -> str:
    """Returns the name of a device if it is `auto`, `cpu`, `cuda` or `cuda:N`; `device.pick_device` tells what they mean.

    Raises:
        InputError: another name, such as `mps`: nothing here has been tested on other devices.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise InputError(repr(name), "is not a device that networks can run on.", "Choose cpu, cuda, cuda:N or auto.")
    return name


FINAL = "final"
"""Tag of the label maps that a person has signed off."""
