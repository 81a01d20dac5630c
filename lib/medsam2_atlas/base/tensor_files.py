"""The one way to load files that PyTorch wrote: tensors and plain values, and never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medsam2_atlas.base.errors import WeightsError


def load_tensors(file: Path, device: torch.device | None = None) -> Any:
    """Returns what a file holds that `torch.save` wrote, with its tensors on a device; by default the processor.

    Raises:
        WeightsError: it holds classes or functions. They are not called.
        Exception: it cannot be read; PyTorch raises many kinds.
    """
    try:
        return torch.load(file, map_location=device or torch.device("cpu"), weights_only=True)
    except Exception as error:
        if "GLOBAL" not in str(error):
            raise
        problem = "holds code besides weights; the code was not run."
        raise WeightsError(file, problem, "Get the file again, from a source that you trust.") from error
