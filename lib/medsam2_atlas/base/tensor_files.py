"""Loads files that PyTorch wrote: tensors and plain values, but never code. Nothing else in the project loads such files."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medsam2_atlas.base.errors import WeightsError


def load_tensors(file: Path, device: torch.device | None = None, *, numbers: bool = False, mapped: bool = False) -> Any:
    """Returns the content of a file that `torch.save` wrote.

    Args:
        file: the file to load.
        device: device of the tensors; the processor by default.
        numbers: whether NumPy's numbers are accepted too, such as the Dice that a training stored with its weights.
        mapped: whether a tensor's values are read from the file when they are used. The file must not change while the tensors
            exist.

    Raises:
        WeightsError: the file contains classes or functions. They are not called.
        ValueError: the file is damaged, or another program wrote it. PyTorch's own texts would advise to allow code.
        Exception: the file cannot be read for another reason.
    """
    try:
        with torch.serialization.safe_globals(_numpy_numbers()) if numbers else nullcontext():
            return torch.load(file, map_location=device or torch.device("cpu"), weights_only=True, mmap=mapped)
    except Exception as error:
        if "GLOBAL" not in str(error):
            if _is_about_memory_or_disk(error):
                raise
            raise ValueError("it is damaged, or PyTorch did not write it") from None
        problem = "contains code besides weights; the code was not run."
        raise WeightsError(file, problem, "Get the file again, from a source that you trust.") from error


def _is_about_memory_or_disk(error: Exception) -> bool:
    """Returns whether an error is about memory, a device or the disk. PyTorch raises EINVAL for a file that is cut off."""
    if isinstance(error, OSError):
        return error.errno != errno.EINVAL
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "PytorchStreamReader" not in str(error))


def _numpy_numbers() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Returns the types and the function that unpickle NumPy's numbers; the function has different names in NumPy 1 and 2."""
    kinds = [np.float64, np.float32, np.int64, np.int32, np.bool_]
    scalar: Any = np.float64(0).__reduce__()[0]
    places = ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"]
    return [np.dtype, *(type(np.dtype(kind)) for kind in kinds), *((scalar, place) for place in places)]
