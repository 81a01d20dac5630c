"""Measures the components of a network: calls, CPU seconds, floating-point operations; and the rates of matrix products."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from engine_loops import Engine, Published

from medsam2_atlas.medsam2 import linear
from medsam2_atlas.medsam2.memory_attention import MemoryAttention, Read
from medsam2_atlas.medsam2.prepared import PreparedNetwork

ENCODER, FIRST, KEYS, ATTENTION, DECODER, MEMORY = (
    "image encoder",
    "memory attention, first layer",
    "memory attention, keys",
    "memory attention",
    "mask decoder",
    "memory encoder",
)
COMPONENTS = (ENCODER, FIRST, KEYS, ATTENTION, DECODER, MEMORY)
_SHAPES = ((1024, 256, 2048), (1024, 2048, 256))
"""Rows, inputs and outputs of the products whose rate is measured: the feed-forward layers of the memory attention."""


@dataclass
class Clock:
    """Counts the calls of components and their CPU seconds, without those of components called inside them.

    Attributes:
        seconds: the CPU seconds of each call, by component and number of memories (0 except for the memory attention).
    """

    seconds: dict[str, dict[int, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    _inner: list[float] = field(default_factory=list)

    def watch(self, owner: Any, method: str, component: str, memories: Callable[..., int] = lambda *_, **__: 0) -> None:
        """Measures a method of an object from now on; `memories` gets the call's arguments."""
        work = getattr(owner, method)

        def measured(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            began = time.process_time()
            try:
                return work(*args, **kwargs)
            finally:
                used = time.process_time() - began
                self.seconds[component][memories(*args, **kwargs)].append(used - self._inner.pop())
                if self._inner:
                    self._inner[-1] += used

        setattr(owner, method, measured)


def watch(clock: Clock, loop: Published | Engine) -> None:
    """Measures the components of a loop."""
    if isinstance(loop, Published):
        net = loop.predictor
        tokens = int(net.sam_image_embedding_size) ** 2

        def spatial(*, memory: torch.Tensor, num_obj_ptr_tokens: int, **_: Any) -> int:
            return (len(memory) - num_obj_ptr_tokens) // tokens

        clock.watch(net, "forward_image", ENCODER)
        clock.watch(net.memory_attention, "forward", ATTENTION, spatial)
        clock.watch(net, "_forward_sam_heads", DECODER)
        clock.watch(net, "_encode_new_memory", MEMORY)
        return
    prepared = loop.prepared

    def read(_: Any, memories: Any, *__: Any, **___: Any) -> int:
        return len(memories[0])

    clock.watch(prepared, "encode", ENCODER)
    clock.watch(prepared.memory_attention, "first", FIRST)
    clock.watch(prepared.memory_attention, "keys", KEYS)
    clock.watch(prepared.memory_attention, "attend", ATTENTION, read)
    clock.watch(prepared, "decode", DECODER)
    clock.watch(prepared, "remember", MEMORY)


def product_rates(repeats: int = 5) -> dict[str, float]:
    """Returns GFLOP per CPU second of MKL's and oneDNN's matrix products; without oneDNN's if it cannot be used."""
    rates: dict[str, list[float]] = defaultdict(list)
    with torch.inference_mode():
        for rows, inputs, outputs in _SHAPES:
            x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.zeros(outputs)
            work: dict[str, Callable[[], Any]] = {"MKL": lambda x=x, w=weight, b=bias: F.linear(x, w, b)}
            if linear.measured().onednn_rate:
                packed = linear._packed(weight)
                work["oneDNN"] = lambda x=x, w=packed, b=bias: linear._onednn(x, w, b, "none")
            for name, product in work.items():
                rates[name].append(2 * rows * inputs * outputs / 1e9 / _shortest(product, repeats))
    return {name: len(found) / sum(1 / rate for rate in found) for name, found in rates.items()}


def _shortest(work: Callable[[], Any], repeats: int) -> float:
    """Returns the lowest CPU seconds of several calls of about 10 ms each."""
    found = []
    for _ in range(repeats + 1):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return max(1e-9, min(found[1:]))


def operations(network: Any, memories: tuple[int, int] = (2, 6)) -> dict[str, dict[str, tuple[float, float]]]:
    """Returns GFLOP per call of each component, of sam2's own network and of the engine's.

    Only matrix products and convolutions count. The network runs on PyTorch's device `meta`, which computes nothing.

    Args:
        network: the network; it is moved to `meta`, and cannot be used afterwards.
        memories: two numbers of memories.

    Returns:
        For `published` and `exact`: GFLOP without memories, and GFLOP per memory, by component.
    """
    from torch.utils.flop_counter import FlopCounterMode

    def counted(work: Callable[[], Any]) -> tuple[float, Any]:
        with FlopCounterMode(display=False) as counter:
            result = work()
        return counter.get_total_flops() / 1e9, result

    def on_memories(work: Callable[[int], Any]) -> tuple[float, float]:
        fewer, more = (counted(lambda n=n: work(n))[0] for n in memories)
        slope = (more - fewer) / (memories[1] - memories[0])
        return fewer - slope * memories[0], slope

    def blank(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta")

    net = network.to("meta")
    size, width, thin = int(net.image_size), int(net.hidden_dim), int(net.mem_dim)
    tokens, split = int(net.sam_image_embedding_size) ** 2, width // thin

    def own(count: int) -> Any:
        pointers = count * split
        return net.memory_attention(
            curr=[blank(tokens, 1, width)],
            curr_pos=[blank(tokens, 1, width)],
            memory=blank(tokens * count + pointers, 1, thin),
            memory_pos=blank(tokens * count + pointers, 1, thin),
            num_obj_ptr_tokens=pointers,
        )

    # `meta` has no autocast, which the engine turns off for some parts.
    with torch.inference_mode(), patch.object(torch, "autocast", lambda *_, **__: nullcontext()):
        encoder, encoded = counted(lambda: net.forward_image(blank(1, 3, size, size)))
        fine, middle, top = encoded["backbone_fpn"][-3:]
        decoder, _ = counted(lambda: net._forward_sam_heads(top, high_res_features=[fine, middle], multimask_output=False))
        memory, _ = counted(lambda: net.memory_encoder(top, blank(1, 1, size, size), skip_mask_sigmoid=True))
        published = {ENCODER: (encoder, 0.0), ATTENTION: on_memories(own), DECODER: (decoder, 0.0), MEMORY: (memory, 0.0)}

        prepared = PreparedNetwork(net)
        attention = MemoryAttention(net)
        encoder, levels = counted(lambda: prepared.encode(blank(1, 3, size, size)))
        first, layer = counted(lambda: attention.first(levels[-1], prepared.position))
        keys, found = counted(lambda: attention.keys(blank(tokens, thin)))
        decoder, masks = counted(lambda: prepared.decode(levels[-1], levels))
        memory, _ = counted(lambda: prepared.remember(levels[-1], masks.logits, masks.presence, prompted=False))

        def ours(count: int) -> Any:
            pointers = blank(count * split, thin)
            return attention.attend(layer, [[Read(blank(tokens, thin), found, 0)] * count], [pointers], pointers[None])

        exact = {ENCODER: (encoder, 0.0), FIRST: (first, 0.0), KEYS: (keys, 0.0), ATTENTION: on_memories(ours)}
    return {"published": published, "exact": exact | {DECODER: (decoder, 0.0), MEMORY: (memory, 0.0)}}
