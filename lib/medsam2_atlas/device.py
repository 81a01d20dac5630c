"""One way to pick the device that networks run on."""

from __future__ import annotations

import torch

from medsam2_atlas.errors import InputError


def pick_device(name: str | None = None) -> torch.device:
    """The device of that name, or a GPU where there is one, else the CPU.

    Raises:
        InputError: an unknown device, or CUDA where there is none.
    """
    if not name or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(name, "is not a device.", "Use cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(name, "is asked for, but this PyTorch sees no CUDA GPU.", "Use --device cpu, or install CUDA PyTorch.")
    return device
