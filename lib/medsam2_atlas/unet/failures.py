"""Explains errors that end a training, and names the remedy."""

from __future__ import annotations

import torch

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.base.gpu_errors import first_line, is_gpu_failure, is_out_of_memory
from medsam2_atlas.unet.config import UNetConfig
from medsam2_atlas.unet.workers import REMEDY, is_worker_failure, problem_in

_RESUMES = "If you start the training again, it resumes from the last saved checkpoint."


def explained(error: BaseException, config: UNetConfig, device: torch.device) -> BaseException:
    """Translates an error of PyTorch into one of this project.

    Args:
        error: the error that ended the training.
        config: configuration of the training; its patch size appears in the message.
        device: the device of the training.

    Returns:
        An `InputError` with a remedy if memory ran out, the GPU failed, or a reading process failed; else the same error.
    """
    if isinstance(error, MedSAM2AtlasError):
        return error
    if is_out_of_memory(error):
        patch = " x ".join(str(side) for side in config.patch)
        sizes = f"patches of {patch} voxels, {config.training.patches_per_case} x {config.training.cases_per_step} a step"
        return InputError(
            "training",
            f"is out of GPU memory on {device} ({sizes}).",
            "Free some of it, lower patches_per_case, cases_per_step or the configuration's patch, or train on the device cpu. "
            + _RESUMES,
        )
    if is_gpu_failure(error):
        return InputError("training", f"has lost the GPU {device} ({first_line(error)}).", _RESUMES)
    if is_worker_failure(error):
        return InputError("training", f"has lost a process that reads patches ({problem_in(error)}).", f"{REMEDY} {_RESUMES}")
    return error
