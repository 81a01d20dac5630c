"""Names that users choose from, on the command line and in code.

The module imports no other library, so that the command line can list the choices without loading their code.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from medsam2_atlas.base.errors import InputError

PROMPTS = ("atlas", "unet", "both")
"""Sources of the first boxes: the atlas' score maps, the first available U-Net's masks, or per organ the better of both.

Names of trained segmenters are sources, too.
"""

ThresholdRule = Literal["atlas", "published", "adaptive"]
"""The rule that gives the threshold of a prompting region; see `scoremaps.threshold_of`."""

DEFAULT_THRESHOLDS: ThresholdRule = "atlas"
"""The default rule."""

Loop = Literal["symmetric", "published"]
"""How boxes condition the propagation through slices; see `medsam2.propagation`."""

Mode = Literal["exact", "fast"]
"""How MedSAM2 computes: as the official predictor (`exact`), or with approximations that save time (`fast`)."""

MODES: tuple[Mode, ...] = get_args(Mode)
"""The modes, the default first."""

Memory = Literal["", "small", "smallest", "cpu"]
"""How networks use a GPU's memory.

Empty: as usual. `small`: features and results stay in main memory. `smallest`: as `small`, and one step at a time. `cpu`: the
GPU is not used.
"""

Fusion = Literal["mean", "local", "joint"]
"""How references vote in the common space; see `scoremaps.voting`."""

RegistrationMethod = Literal["keypoints", "dense", "both"]
"""How CTs are registered to the common space; see `registration.methods`."""

Sex = Literal["female", "male"]
"""The sex of a patient, which determines whether organ 15 is a uterus or a prostate; see `atlas.sex`."""

MissingOrgan = Literal["unknown", "absent"]
"""Meaning of an organ that is missing from a reference's label map: not annotated, or not present in the patient."""

Made = Literal["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC"]
"""How a label map was made, in DICOM's terms (Segment Algorithm Type)."""


def device_name(name: str) -> str:
    """Returns the name of a device if it is `auto`, `cpu`, `cuda` or `cuda:N`; `device.pick_device` explains these names.

    Raises:
        InputError: the name is another one, such as `mps`: the project has not been tested on other devices.

    >>> device_name("cuda:1")
    'cuda:1'
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise InputError(repr(name), "is not a device that networks can run on.", "Choose cpu, cuda, cuda:N or auto.")
    return name


FINAL = "final"
"""The tag of label maps that a person has signed off."""
