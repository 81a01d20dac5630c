"""Intercepts Python's calls of PyTorch on a pretended machine: `device=`, `.to`, `.cpu()`, `.numpy()`, `x.device`."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pretended_gpu import tensor as tensors
from pretended_gpu.tensor import MixedDevicesError, PretendedTensor, here, leaves, mapped, moved, place_of, run_operator, split

_T = torch.Tensor
_TO_NUMPY = {_T.numpy, _T.__array__}
_FROM_DATA = {"as_tensor", "tensor", "asarray"}


def device_name(device: Any) -> str | None:
    """Returns the name of a device: `cpu`, `cuda:N` or another; None for None."""
    if device is None:
        return None
    if isinstance(device, int):
        return f"cuda:{device}"
    named = torch.device(device)
    return f"cuda:{tensors.machine.index(named)}" if named.type == "cuda" else named.type


class Operators(TorchDispatchMode):
    """Intercepts each operator that runs."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Returns False, so that PyTorch does not import its compiler, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_operator(func, args, kwargs or {})


class Calls(TorchFunctionMode):
    """Intercepts each call of PyTorch from Python, and handles those that involve a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        name = getattr(func, "__name__", str(func))
        if isinstance(first, PretendedTensor):
            if func == _T.device.__get__:
                return torch.device(first.place)
            if func == _T.is_cuda.__get__:
                return True
            if name == "get_device":
                return torch.device(first.place).index
            if func in _TO_NUMPY:
                raise TypeError(f"can't convert {first.place} device type tensor to numpy. Use Tensor.cpu() first.")
            if name in ("tolist", "item"):
                tensors.machine.waits += 1
                return getattr(first.values, name)()
            if name == "data_ptr":
                return first.values.data_ptr()
        if isinstance(first, _T):
            if name == "cpu":
                return moved(first, "cpu")
            if name == "cuda":
                return moved(first, device_name(args[1] if len(args) > 1 else kwargs.get("device", "cuda")) or "")
            if name == "pin_memory":
                pinned = _run(_T.clone, (first,), {}, None)
                pinned.pinned = True
                return pinned
            if func is _T.to:
                return _to(first, args[1:], kwargs)
            if name == "type_as":
                return _to(first, (args[1],), {})
        device = None if isinstance(kwargs.get("device"), _T) else device_name(kwargs.get("device"))
        if device is not None:
            return _made_on(device, func, args, kwargs)
        on_cards, _ = split(args, kwargs)
        if on_cards and _cpu_generator(args, kwargs):
            raise MixedDevicesError(f"{name}: a generator on the CPU with a tensor on {on_cards[0].place}")
        return _run(func, args, kwargs, on_cards[0].place if on_cards else None)


def _run(func: Any, args: Any, kwargs: Any, device: str | None) -> Any:
    before, here.device = here.device, device
    try:
        return func(*args, **kwargs)
    finally:
        here.device = before


def _to(tensor: torch.Tensor, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """Runs `Tensor.to` in all its forms: device, type, both, or those of another tensor."""
    device, kind = kwargs.get("device"), kwargs.get("dtype")
    for value in (*args, kwargs.get("other")):
        if isinstance(value, (str, torch.device)) or type(value) is int:
            device = value
        elif isinstance(value, torch.dtype):
            kind = value
        elif isinstance(value, _T):
            device, kind = place_of(value), value.dtype
    waits = not (kwargs.get("non_blocking") and getattr(tensor, "pinned", False))
    result = tensor if device is None else moved(tensor, device_name(device) or "", waits=waits)
    if kwargs.get("copy") and result is tensor:
        result = _run(_T.clone, (tensor,), {}, None)
    return result if kind is None else _run(_T.to, (result, kind), {}, None)


def _made_on(device: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs a call with the argument `device` on the CPU, and moves its results to that device."""
    name = getattr(func, "__name__", "")
    if device != "cpu" and _cpu_generator(args, kwargs):
        raise MixedDevicesError(f"{name}: a generator on the CPU for a tensor on {device}")
    if name in _FROM_DATA and args and isinstance(args[0], PretendedTensor):
        return _to(args[0], (), {"device": device, "dtype": kwargs.get("dtype")})
    kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"} | {"device": torch.device("cpu")}
    out = _run(func, args, kwargs, device)
    waits = name in _FROM_DATA  # other calls make the tensor on the card
    return mapped(lambda t: moved(t, device, waits=waits) if isinstance(t, _T) else t, out)


def _cpu_generator(args: Any, kwargs: Any) -> bool:
    return any(isinstance(g, torch.Generator) and g.device.type == "cpu" for g in leaves((args, kwargs)))
