"""Tensors that report to be on a card: real values on the CPU, and a check of each operator that gets them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import return_and_correct_aliasing

from pretended_gpu.card import Machine

aten = torch.ops.aten

_WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select}
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}


class MixedDevicesError(RuntimeError):
    """An operator got tensors on different devices; a real card raises or returns nonsense."""


class _Here(threading.local):
    device: str | None = None


machine = Machine(0, 0)  # `pretended_gpu` replaces it
here = _Here()
"""The card of the tensors that a function of PyTorch was called with; tensors created inside are on it too."""


class PretendedTensor(torch.Tensor):
    """A tensor on `cuda:N`. `values` are on the CPU, `place` is the device's name, `block` holds its memory."""

    values: torch.Tensor
    place: str

    @staticmethod
    def __new__(cls, values: torch.Tensor, place: str) -> PretendedTensor:
        block = machine.card(place).hold(values)
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            layout=values.layout, device="cpu", requires_grad=False,
        )  # fmt: skip
        tensor.values, tensor.place, tensor.block = values, place, block
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_operator(func, args, kwargs or {})

    # With this method, modules replace parameters of this class instead of their data.
    def __tensor_flatten__(self) -> tuple[list[str], str]:
        return ["values"], self.place

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], place: str, size: Any, stride: Any) -> PretendedTensor:
        return PretendedTensor(inner["values"], place)

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"PretendedTensor({tuple(self.values.shape)}, {self.place})"


def place_of(tensor: torch.Tensor) -> str:
    """Returns `cpu` or `cuda:N`."""
    return tensor.place if isinstance(tensor, PretendedTensor) else "cpu"


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Applies a function to each value in nested lists, tuples and dictionaries. PyTorch's own function is far slower."""
    if isinstance(value, (list, tuple)):
        changed = [mapped(change, part) for part in value]
        return type(value)(*changed) if hasattr(value, "_fields") else type(value)(changed)
    return {key: mapped(change, part) for key, part in value.items()} if isinstance(value, dict) else change(value)


def leaves(value: Any) -> Iterator[Any]:
    """Yields the values in nested lists, tuples and dictionaries."""
    if isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)
    else:
        yield value


def split(args: Any, kwargs: Any = None) -> tuple[list[PretendedTensor], list[torch.Tensor]]:
    """Returns the tensors among a call's arguments: on cards, and on the CPU."""
    tensors = [t for t in leaves((args, kwargs or {})) if isinstance(t, torch.Tensor)]
    return [t for t in tensors if isinstance(t, PretendedTensor)], [t for t in tensors if not isinstance(t, PretendedTensor)]


def run_operator(func: Any, args: Any, kwargs: Any) -> Any:
    """Runs an operator on the values, after a check that its tensors are on one device.

    Raises:
        MixedDevicesError: if they are not. A tensor without dimensions may be on the CPU, as with a real card.
    """
    operator = func.overloadpacket
    on_cards, on_cpu = split(args, kwargs)
    if on_cards and operator is not aten.copy_:
        _check_together(func, operator, args, on_cards, on_cpu)
    device = on_cards[0].place if on_cards else None if on_cpu else here.device
    if operator is aten.copy_ and on_cards:
        device = args[0].place if isinstance(args[0], PretendedTensor) else on_cards[0].place
    if device == "cpu":
        device = None
    if device is not None:
        machine.card(device).note(str(operator).removeprefix("aten."))
        machine.waits += operator in _WAITING or (operator is aten.index and _selects(args[1]))
    out = func(*mapped(_values, tuple(args)), **mapped(_values, dict(kwargs)))
    if device is None:
        return out
    if operator is aten.copy_ and not isinstance(args[0], PretendedTensor):
        return args[0]
    out = mapped(lambda t: PretendedTensor(t, device) if type(t) is torch.Tensor else t, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if on_cards else out


def _check_together(func: Any, operator: Any, args: Any, on_cards: list[PretendedTensor], on_cpu: list[torch.Tensor]) -> None:
    places = {t.place for t in on_cards}
    if len(places) > 1:
        raise MixedDevicesError(f"{func}: tensors on {', '.join(sorted(places))}")
    wrong: list[torch.Tensor]
    if operator in _INDEXING:  # indices may be tensors on the CPU
        target = isinstance(args[0], PretendedTensor)
        wrong = [] if target else list(on_cards)
        if target and operator not in (aten.index, aten._unsafe_index) and len(args) > 2:
            wrong = [args[2]] if not isinstance(args[2], PretendedTensor) and args[2].dim() else []
    else:
        wrong = [t for t in on_cpu if t.dim() > 0]
        if func._schema.is_mutable and isinstance(args[0], torch.Tensor) and not isinstance(args[0], PretendedTensor):
            wrong = wrong or [args[0]]
    if wrong:
        shapes = [tuple(t.shape) for t in on_cards], [tuple(t.shape) for t in wrong]
        raise MixedDevicesError(f"{func}: tensors {shapes[0]} on {on_cards[0].place}, {shapes[1]} on another device")


def _values(value: Any) -> Any:
    return value.values if isinstance(value, PretendedTensor) else value


def _selects(indices: Any) -> bool:
    """Returns whether an index is a mask: a real card must then tell the CPU how many values it selects."""
    return any(isinstance(t, torch.Tensor) and t.dtype in (torch.bool, torch.uint8) for t in leaves(indices))


def moved(tensor: torch.Tensor, device: str, *, waits: bool = True) -> torch.Tensor:
    """Returns a tensor on another device; gradients flow back through the copy.

    `waits` says whether the CPU waits for a copy to a card; it always waits for a copy from a card.
    """
    needs_gradient = tensor.requires_grad and torch.is_grad_enabled()
    return _Move.apply(tensor, device) if needs_gradient else _moved(tensor, device, waits)  # type: ignore[no-any-return]


def _moved(tensor: torch.Tensor, device: str, waits: bool = True) -> torch.Tensor:
    before = place_of(tensor)
    if before == device:
        return tensor
    for place in (before, device):
        if place != "cpu":
            machine.card(place).note("to")
    machine.waits += waits or before != "cpu"
    with torch._C._DisableTorchDispatch():
        values = _values(tensor).detach().clone()
    if type(values) is not torch.Tensor:
        values = values.as_subclass(torch.Tensor)
    return values if device == "cpu" else PretendedTensor(values, device)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, device: str) -> torch.Tensor:
        ctx.before = place_of(tensor)
        return _moved(tensor, device)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _moved(gradients[0], ctx.before), None
