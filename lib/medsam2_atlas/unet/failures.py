"""Errors that end a training, in words that name the remedy."""

from __future__ import annotations

import torch

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.base.memory import first_line, is_gpu_failure, is_out_of_memory
from medsam2_atlas.unet.config import UNetConfig
from medsam2_atlas.unet.workers import REMEDY, is_worker_failure, problem_in

_GOES_ON = "A training that is started again goes on where this one was last saved."


def explained(error: BaseException, config: UNetConfig, device: torch.device) -> BaseException:
    """Returns an error of this project in place of one that PyTorch raised for want of memory or by a GPU's failure; others
    as they are."""
    if isinstance(error, MedSAM2AtlasError):
        return error
    if is_out_of_memory(error):
        patch = " x ".join(str(side) for side in config.patch)
        sizes = f"patches of {patch} voxels, {config.training.patches_per_case} x {config.training.cases_per_step} a step"
        return InputError(
            "training",
            f"is out of GPU memory on {device} ({sizes}).",
            "Free some of it, lower patches_per_case, cases_per_step or the configuration's patch, or train on the device cpu. "
            + _GOES_ON,
        )
    if is_gpu_failure(error):
        return InputError("training", f"has lost the GPU {device} ({first_line(error)}).", _GOES_ON)
    if is_worker_failure(error):
        return InputError("training", f"has lost a process that reads ({problem_in(error)}).", f"{REMEDY} {_GOES_ON}")
    return error
