"""Records how an experiment was made: versions, checksums of atlas, weights and data, machine and threads."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from medsam2_atlas.base.printable import printable
from medsam2_atlas.base.version import package_version

_PACKAGES = ("torch", "monai", "numpy", "scipy", "SimpleITK", "sam2", "codecarbon")
"""Packages whose version may change a figure."""


class MadeWith(BaseModel):
    """Versions, checksums, machine and settings of an experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: list[str] = Field(description="the command line")
    version: str = Field(description="version of medsam2_atlas")
    python: str = Field(description="version of Python")
    packages: dict[str, str] = Field(description="versions of other packages")
    machine: dict[str, Any] = Field(description="processor, cores, memory, system, GPU")
    threads: str = Field(description="threads of PyTorch in each process; several numbers if records differ")
    jobs: int = Field(description="number of processes that ran cases side by side")
    atlas: dict[str, Any] = Field(description="folder, version and references of the atlas; empty without one")
    weights: dict[str, dict[str, Any]] = Field(description="file, checksum and mark of the weights, by segmenter")
    settings: list[str] = Field(description="settings that differ from their defaults, by file")
    mode: str = Field(description="mode of MedSAM2: exact or fast")
    as_published: bool = Field(description="whether the published method was switched on")
    data: dict[str, dict[str, str]] = Field(description="SHA-256 of image and label map (`image`, `label`), by case")
    marks: list[str] = Field(description="warnings about weights, such as that they are demo weights")


def packages() -> dict[str, str]:
    """Returns the versions of the packages that may change a figure."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an optional package, or one inside the wheel
            continue
    return found


def machine(device: str) -> dict[str, Any]:
    """Returns processor, cores, memory and system, and the GPU if the device is one.

    Args:
        device: devices of the networks, such as `cpu` or `cuda:0`.
    """
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": platform.platform(),
        "device": device,
    }
    if "cuda" in device:
        import torch

        cards = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
        found["gpu"] = ", ".join(torch.cuda.get_device_name(number) for number in cards)
    return found


def basis() -> Mapping[str, Any]:
    """Returns command line and versions: the fields that need neither data nor models."""
    return {
        "command": [printable(word) for word in (Path(sys.argv[0]).name, *sys.argv[1:])],
        "version": package_version(),
        "python": platform.python_version(),
        "packages": packages(),
    }


def _processor() -> str:
    """Returns the name of the processor; Python alone gives its family only."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
