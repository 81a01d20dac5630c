"""Runs sam2's code and the engine in another precision than float32, which both ask for in many places.

sam2 casts masks, points and tables to float32, with `.float()`, `dtype=torch.float32` and PyTorch's default. `computing_in`
replaces each of these requests and nothing else, so that a network in float64 stays in float64 from the image to the logits.
Rounding to bfloat16, which is part of the method, remains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, resolve_name

_NARROW = {torch.float32: {torch.bfloat16}, torch.float64: {torch.bfloat16, torch.float32, torch.complex64}}
"""Types that are less precise than a precision. Only memories may have one of them: bfloat16."""


class Requests(TorchFunctionMode):
    """Replaces requests for float32.

    Args:
        dtype: the precision that replaces float32.

    Attributes:
        narrow: the functions that returned tensors of a lower precision than `dtype`.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype, self.narrow = dtype, set[str]()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.Tensor.float:
            result = args[0].to(self._dtype)
        else:
            arguments = (self._dtype if value is torch.float32 else value for value in args)
            named = {name: self._dtype if value is torch.float32 else value for name, value in (kwargs or {}).items()}
            result = function(*arguments, **named)
        if isinstance(result, torch.Tensor) and result.dtype in _NARROW[self._dtype]:
            self.narrow.add(f"{resolve_name(function)} -> {result.dtype}")
        return result


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[Requests]:
    """Replaces float32 by a precision in a block. Networks must be built in it, because their tables have a precision, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with Requests(dtype) as requests:
            yield requests
    finally:
        torch.set_default_dtype(before)
