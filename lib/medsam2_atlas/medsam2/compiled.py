"""Compiles parts of a network on request (`compile` in configs/medsam2.yaml).

A compiled part runs in fewer and larger kernels. Its first call compiles it, which takes up to minutes, and a call with another
size of batch may compile it again. If the compiler fails, for example because the machine has no compiler for C, a warning
gives the reason, and the part runs as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from medsam2_atlas.base.gpu_errors import is_gpu_failure, is_out_of_memory

log = logging.getLogger(__name__)


class Compiled:
    """A function that is compiled at its first call, and runs uncompiled after a failure of the compiler.

    Args:
        function: the function.
        name: its name in the warning.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function, self._name = function, name
        self._run = torch.compile(function)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Calls the function.

        Raises:
            Exception: any error of the function itself, and errors of the GPU.
        """
        if self._run is not self._function:
            try:
                return self._run(*args, **options)
            except Exception as error:
                if is_out_of_memory(error) or is_gpu_failure(error):
                    raise
                reason = (str(error).splitlines() or [""])[0][:200]
                log.warning("%s runs uncompiled: %s: %s", self._name, type(error).__name__, reason)
                self._run = self._function
        return self._function(*args, **options)  # after the `except` block, so that the failed call's tensors are freed


def compile_parts(network: Any) -> None:
    """Compiles the image encoder, the mask decoder and the memory encoder of a network at their first calls."""
    parts = {
        "the image encoder": network.image_encoder.trunk,
        "the mask decoder": network.sam_mask_decoder,
        "the memory encoder": network.memory_encoder,
    }
    for name, part in parts.items():
        assert isinstance(part, nn.Module)
        part.forward = Compiled(part.forward, name)
