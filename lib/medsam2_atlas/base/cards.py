"""The NVIDIA cards that PyTorch sees, and whether networks can run on them.

PyTorch also lists cards that it cannot run on: its build may lack kernels for them, or the driver may be broken. That shows
at the first kernel only, so one is tried: elementwise, a matrix product (cuBLAS) and a convolution (cuDNN), as in the
networks. The process that asks tries it itself: another process would first have to import PyTorch, for seconds in every
command. `doctor` alone looks from another process (`card_look`), since it must end even if a broken driver hangs or crashes.
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
from medsam2_atlas.base.memory import is_out_of_memory

_ENOUGH = 1 << 30
"""Bytes of free memory with which a library's handle cannot fail for lack of memory."""


def cards_seen() -> list[torch.device]:
    """Returns the CUDA devices that PyTorch sees in this process; it may not be able to run on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `no_card` tells what PyTorch warns of
        if not torch.cuda.is_available():
            return []
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


@functools.cache
def tried(device: torch.device) -> Trial:
    """Tries a kernel on a CUDA device, once in each process."""
    return try_kernel(device)


def try_kernel(device: torch.device) -> Trial:
    """Tries a kernel on a CUDA device now."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own words for what the kernel shows
            result = _kernel(device)
    except Exception as error:  # noqa: BLE001 - errors of many types arise here, and each means that networks would fail
        return Trial(full=True) if _is_full(error, device) else explained(error, device)
    if not math.isclose(result, _kernel(torch.device("cpu")), rel_tol=0.01):  # TF32 alone is off by less than 0.001
        return Trial("the card computes wrong results", "Test the card, and do not use it until then.")
    return Trial()


def no_card() -> Trial:
    """Returns why PyTorch sees no card."""
    if not has_cuda_build():
        return cpu_build()
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # is_available() does not tell the cause
    except Exception as error:  # noqa: BLE001 - as above
        return explained(error)
    return Trial("PyTorch sees no card", "`nvidia-smi -L` lists cards.", absent=True)


def has_cuda_build() -> bool:
    """Returns whether this PyTorch can use GPUs at all (CUDA, or AMD's ROCm under the same name)."""
    return bool(torch.version.cuda or torch.version.hip)


def shows_card() -> bool:
    """Returns whether the system shows an NVIDIA card to this process: a driver is loaded, and a container gets the card."""
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
    try:  # libraries that are broken name the same errors as libraries that find no memory
        return torch.cuda.mem_get_info(device)[0] < _ENOUGH
    except Exception:  # noqa: BLE001 - a card that cannot be asked has another trouble
        return False
