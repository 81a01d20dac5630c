"""A pretended CUDA machine, for tests on machines without a GPU.

Its tensors contain real values on the CPU, report the device `cuda:N`, and give exactly the CPU's results. It raises an error
if devices mix, if a generator or NumPy gets a tensor of another device, in forked processes, for a card that does not exist,
if a card's memory is full, and when a test requests it. It counts the operators on each card.

It also counts how often the CPU would have to wait for a card (`Machine.waits`).

It cannot detect what only a real card shows: missing CUDA kernels and their rounding; TF32; the default format of autocast
(float16 becomes bfloat16 on the CPU); the memory of CUDA's context, libraries, work spaces and fragmentation; streams and
everything asynchronous; and real devices in other processes. It includes threads that start inside the block.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.utils._pytree import tree_map

from pretended_gpu import card as errors
from pretended_gpu import tensor as tensors
from pretended_gpu.asking import Calls, Operators, device_name
from pretended_gpu.card import Card, Machine
from pretended_gpu.tensor import MixedDevicesError, PretendedTensor, moved

__all__ = ["Card", "Machine", "MixedDevicesError", "PretendedTensor", "errors", "pretended_gpu"]


@contextlib.contextmanager
def pretended_gpu(
    cards: int = 1, megabytes: float = 80 * 1024, *, name: str = "pretended", capability: tuple[int, int] = (8, 0)
) -> Iterator[Machine]:
    """Runs a block on a machine with pretended cards.

    Args:
        cards: number of cards.
        megabytes: memory of each card.
        name: name of each card in `torch.cuda`.
        capability: compute capability of each card in `torch.cuda`.
    """
    machine = Machine(cards, megabytes)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(tensors, "machine", machine))
        for function, answer in _answers(machine, name, capability).items():
            stack.enter_context(mock.patch.object(torch.cuda, function, answer))
        stack.enter_context(mock.patch.object(torch.version, "cuda", "12.8"))
        for place, attribute, replacement in _replacements():
            stack.enter_context(mock.patch.object(place, attribute, replacement))
        # As with a real card, parameters stay the same objects when their module moves.
        before = torch.__future__.get_swap_module_params_on_conversion()
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, before)
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.enter_context(Operators())
        stack.enter_context(Calls())
        yield machine


def _answers(machine: Machine, name: str, capability: tuple[int, int]) -> dict[str, Any]:
    """Returns the replacements of functions of `torch.cuda`, by name."""
    major, minor = capability

    def properties(device: object = None) -> Any:
        total = machine.card(device).total
        return SimpleNamespace(name=name, major=major, minor=minor, total_memory=total, multi_processor_count=100)

    def select(device: object) -> int:
        before, machine.current = machine.current, machine.index(device)
        return before

    def free(device: object = None) -> tuple[int, int]:
        return machine.card(device).memory - machine.card(device).used, machine.card(device).memory

    def reset_peak(device: object = None) -> None:
        machine.card(device).peak = machine.card(device).used

    def limit(fraction: float, device: object = None) -> None:
        machine.card(device).memory = int(machine.card(device).total * fraction)

    return {
        "is_available": lambda: bool(machine.cards),
        "device_count": lambda: len(machine.cards),
        "current_device": lambda: machine.current,
        "set_device": select,
        "_exchange_device": select,
        "_maybe_exchange_device": select,
        "is_initialized": lambda: any(card.count for card in machine.cards),
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "synchronize": lambda _=None: None,
        "is_current_stream_capturing": lambda: False,  # optimizers call it on the real CUDA if the build contains it
        "empty_cache": lambda: None,
        "ipc_collect": lambda: None,
        "manual_seed_all": lambda _: None,
        "get_rng_state": lambda _=None: torch.get_rng_state(),
        "get_rng_state_all": list,
        "set_rng_state_all": lambda _: None,
        "get_device_name": lambda device=None: properties(device).name,
        "get_device_properties": properties,
        "get_device_capability": lambda _=None: capability,
        "get_arch_list": lambda: [f"sm_{major}{minor}"],
        "is_bf16_supported": lambda *_, **__: major >= 8,
        "mem_get_info": free,
        "memory_allocated": lambda device=None: machine.card(device).used,
        "memory_reserved": lambda device=None: machine.card(device).used,
        "max_memory_allocated": lambda device=None: machine.card(device).peak,
        "max_memory_reserved": lambda device=None: machine.card(device).peak,
        "reset_peak_memory_stats": reset_peak,
        "set_per_process_memory_fraction": limit,
    }


def _replacements() -> Iterator[tuple[Any, str, Any]]:
    """Yields the other replacements: files, autocast, modes, threads."""
    load, save = torch.load, torch.save
    autocast, run_thread = torch.autocast.__init__, threading.Thread.run

    def load_to(f: Any, map_location: Any = None, **options: Any) -> Any:
        content = load(f, map_location="cpu", **options)
        device = device_name(map_location) if isinstance(map_location, (str, torch.device)) else None
        if device in (None, "cpu"):
            return content
        return tree_map(lambda t: moved(t, str(device)) if isinstance(t, torch.Tensor) else t, content)

    def save_from_cpu(obj: Any, f: Any, **options: Any) -> Any:
        return save(tree_map(lambda t: moved(t.detach(), "cpu") if isinstance(t, PretendedTensor) else t, obj), f, **options)

    def autocast_on_cpu(self: Any, device_type: str, dtype: Any = None, **options: Any) -> None:
        kind, dtype = ("cpu", dtype or torch.bfloat16) if device_type == "cuda" else (device_type, dtype)
        autocast(self, kind, dtype=dtype, **options)

    # Pretended tensors cannot be inference tensors.
    def enter(self: Any) -> None:
        self.pretended = torch.no_grad() if self.mode else contextlib.nullcontext()
        self.pretended.__enter__()

    def leave(self: Any, *problem: Any) -> None:
        self.pretended.__exit__(*problem)

    def run_in_modes(self: threading.Thread) -> None:
        with Operators(), Calls():
            run_thread(self)

    yield torch, "load", load_to
    yield torch, "save", save_from_cpu
    yield torch.autocast, "__init__", autocast_on_cpu
    yield torch.inference_mode, "__enter__", enter
    yield torch.inference_mode, "__exit__", leave
    yield threading.Thread, "run", run_in_modes
