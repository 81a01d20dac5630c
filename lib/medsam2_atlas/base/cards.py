"""Finds the NVIDIA cards that PyTorch sees, and tests whether networks can run on them.

PyTorch also lists cards that it cannot run on: its build may lack kernels for them, or the driver may be broken. Only the first
kernel reveals this, so a trial runs the kinds of kernels that networks use: elementwise functions, a matrix product (cuBLAS)
and a convolution (cuDNN). The trial runs in the calling process, because another process would spend seconds importing PyTorch
in every command. Only `doctor` uses another process (`card_look`): it must end even if a broken driver hangs or crashes.
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F

from medsam2_atlas.base.card_problems import Trial, cpu_build, explained
from medsam2_atlas.base.gpu_errors import is_out_of_memory

_ENOUGH = 1 << 30
"""Free memory in bytes that certainly suffices to create a CUDA library's handle."""


def cards_seen() -> list[torch.device]:
    """Returns the CUDA devices that PyTorch sees in this process. Networks may be unable to run on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `no_card` reports the cause of PyTorch's warning
        if not torch.cuda.is_available():
            return []
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


@functools.cache
def trial_of(device: torch.device) -> Trial:
    """Returns the result of `try_kernel` for a CUDA device; each process tries a device only once."""
    return try_kernel(device)


def try_kernel(device: torch.device) -> Trial:
    """Runs a kernel on a CUDA device now, and returns whether it worked."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the trial's result replaces PyTorch's warning
            result = _kernel(device)
    except Exception as error:  # noqa: BLE001 - errors have many types here, and each means that networks would fail
        return Trial(full=True) if _is_full(error, device) else explained(error, device)
    if not math.isclose(result, _kernel(torch.device("cpu")), rel_tol=0.01):  # TF32 alone is off by less than 0.001
        return Trial("the card computes wrong results", "Do not use the card until it has been tested.")
    return Trial()


def no_card() -> Trial:
    """Returns the reason why PyTorch sees no card, with a remedy."""
    if not has_cuda_build():
        return cpu_build()
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # is_available() hides the cause
    except Exception as error:  # noqa: BLE001 - errors have many types here
        return explained(error)
    return Trial("PyTorch sees no card", "`nvidia-smi -L` lists cards.", absent=True)


def has_cuda_build() -> bool:
    """Returns whether this PyTorch can use GPUs at all (CUDA, or AMD's ROCm under the same name)."""
    return bool(torch.version.cuda or torch.version.hip)


def shows_card() -> bool:
    """Returns whether this process has a device file of an NVIDIA card.

    That requires a loaded driver and, in a container, that the container may use the card.
    """
    return any(re.fullmatch(r"nvidia\d+", file.name) for file in Path("/dev").glob("nvidia*"))


def _kernel(device: torch.device) -> float:
    image = torch.linspace(-1, 1, 4 * 16 * 16, device=device).reshape(1, 4, 16, 16)
    planes = F.conv2d(image, torch.full((4, 4, 3, 3), 0.5, device=device), padding=1)
    rows = F.gelu(planes).reshape(4, 256)
    return float((rows @ rows.T).sum())  # waits until the kernels have run


def _is_full(error: BaseException, device: torch.device) -> bool:
    if not is_out_of_memory(error):
        return False
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
        return True
    try:  # a broken library raises the same errors as a library without memory
        return torch.cuda.mem_get_info(device)[0] < _ENOUGH
    except Exception:  # noqa: BLE001 - a card that does not report its memory has another problem
        return False
