"""Explains PyTorch's errors about NVIDIA cards in plain words, each with a remedy."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass

import torch

HIDING = "CUDA_VISIBLE_DEVICES"
"""Environment variable that hides cards from a process and renumbers the remaining ones."""
OLDER_CUDA = "cu126"
"""PyTorch's last build for CUDA 12, which older drivers and cards need.

PyTorch publishes it up to version 2.14: https://github.com/pytorch/pytorch/issues/190385.
"""
DRIVERS = {11: 450, 12: 525, 13: 580}
"""Min driver version on Linux for each major version of CUDA: https://docs.nvidia.com/deploy/cuda-compatibility/."""


@dataclass(frozen=True)
class Trial:
    """The result of trying a card.

    Attributes:
        problem: the reason why networks cannot run, as a clause without a full stop; empty if they can run.
        remedy: how to fix the problem, in full sentences.
        full: whether the card had too little free memory for the trial. This is no problem: memory may be free later.
        absent: whether there is no card or no driver at all. This is normal on a machine without a GPU.
    """

    problem: str = ""
    remedy: str = ""
    full: bool = False
    absent: bool = False


NO_DRIVER = Trial(
    "no NVIDIA driver was found",
    "Install the driver; in a container, use NVIDIA's container toolkit.",
    absent=True,
)
NO_CARD = Trial("the driver reports no card", "`nvidia-smi -L` lists cards; a card in MIG mode needs instances.", absent=True)

_KNOWN = (
    (("Found no NVIDIA driver",), NO_DRIVER),
    (("No CUDA GPUs are available", "no CUDA-capable device"), NO_CARD),
    (
        ("busy or unavailable",),
        Trial(
            "another process has exclusive use of the card, or the card does not allow computing "
            "(compute mode exclusive or prohibited, or MIG mode without instances)",
            "`nvidia-smi -q -d COMPUTE` shows the mode; `nvidia-smi -c DEFAULT` shares the card.",
        ),
    ),
    (
        ("system not yet initialized",),
        Trial(
            "the connections between the cards are not set up",
            "Start NVIDIA's Fabric Manager; its version must be exactly the driver's.",
        ),
    ),
    (
        ("forward compatibility was attempted", "driver / cuda driver combination", "version mismatch"),
        Trial(
            "parts of the NVIDIA driver have different versions",
            "Restart the machine after an update of the driver; remove the package cuda-compat if it is installed.",
        ),
    ),
    (
        ("CUDA unknown error", "initialization error", "driver initialization failed"),
        Trial(
            "the NVIDIA driver does not start",
            "Check whether `nvidia-smi` works. Restart the machine, especially after sleep or an update of the driver.",
        ),
    ),
    (
        ("ECC error", "GPU is lost", "fallen off the bus", "hardware stack error"),
        Trial(
            "the card reports a hardware error",
            "Restart the machine; `nvidia-smi -q` and the kernel's log (`dmesg`) show details.",
        ),
    ),
    (
        (
            "STATUS_NOT_INITIALIZED",
            "STATUS_NOT_SUPPORTED",
            "STATUS_SUBLIBRARY",
            "STATUS_VERSION",
            "shared object file",
            "libcud",
        ),
        Trial(
            "a CUDA library is missing, or is not the one that comes with this PyTorch",
            "Unset LD_LIBRARY_PATH, or install PyTorch again.",
        ),
    ),
)
"""Texts of errors of PyTorch (`c10/cuda/CUDAFunctions.cpp`) and CUDA, with their explanations."""


def explained(error: BaseException, device: torch.device | None = None) -> Trial:
    """Returns the explanation of an error that PyTorch raised.

    Args:
        error: the exception; its text determines the explanation.
        device: the card on which it occurred; None if no card was used yet.
    """
    text = str(error).strip()
    if "driver on your system is too old" in text or "unsupported toolchain" in text:
        return _driver_too_old(text)
    if "no kernel image" in text or "ARCH_MISMATCH" in text:
        return _no_kernels(device)
    for words, meaning in _KNOWN:
        if any(word in text for word in words):
            return meaning
    first = text.splitlines()[0].rstrip(".") if text else type(error).__name__
    return Trial(f"CUDA reports an error ({first})", "Check whether `nvidia-smi` works; restart the machine.")


def cpu_build() -> Trial:
    """Returns the problem that this PyTorch is a CPU build, with the commands that install the CUDA build."""
    version = torch.__version__.split("+")[0]
    remedy = (
        f"`make install TORCH=cuda` installs the CUDA build; so do `pip uninstall torch` and `pip install torch=={version}`."
    )
    return Trial("this PyTorch is a CPU build", remedy)


def hidden_cards() -> str:
    """Returns a note that `CUDA_VISIBLE_DEVICES` may hide cards from this process; empty if it is not set."""
    return f"{HIDING} is {os.environ[HIDING]!r}" if HIDING in os.environ else ""


def _driver_too_old(text: str) -> Trial:
    found = re.search(r"found version (\d+)", text)
    supported = f"CUDA {int(found[1]) // 1000}.{int(found[1]) % 1000 // 10}" if found else "an older CUDA"
    built = torch.version.cuda or "a newer one"
    major = int(built.split(".")[0]) if built[0].isdigit() else 0
    driver = f"driver {DRIVERS[major]} or newer" if major in DRIVERS else "a newer driver"
    problem = f"the NVIDIA driver is too old: it supports {supported}, and this PyTorch was built for CUDA {built}"
    return Trial(problem, f"Install {driver}, or a build for an older CUDA: {_older_build()}.")


def _no_kernels(device: torch.device | None) -> Trial:
    built = sorted({int(found[1]) for arch in torch.cuda.get_arch_list() if (found := re.match(r"sm_(\d+)", arch))})
    supported = ", ".join(f"{number / 10:.1f}" for number in built) or "other capabilities"
    try:
        major, minor = torch.cuda.get_device_capability(device)
    except Exception:  # noqa: BLE001 - a card that failed may not answer
        return Trial("this PyTorch has no kernels for the card", "`medsam2-atlas doctor` names a suitable build.")
    problem = f"its compute capability is {major}.{minor}, and this PyTorch has kernels for {supported}"
    if built and 10 * major + minor < built[0]:
        return Trial(problem, f"Install a build for older cards: {_older_build()}.")
    return Trial(problem, "Install a newer PyTorch.")


def _older_build() -> str:
    version = torch.__version__.split("+")[0]
    return f"`{sys.executable} -m pip install torch=={version}+{OLDER_CUDA} --index-url https://download.pytorch.org/whl/{OLDER_CUDA}`"
