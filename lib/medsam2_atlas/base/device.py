"""Picks the device that networks run on, and sets their precision on it."""

from __future__ import annotations

import functools
import logging
import os
import warnings

import torch

from medsam2_atlas.base.card_problems import HIDING, hidden_cards
from medsam2_atlas.base.cards import cards_seen, has_cuda_build, no_card, shows_card, trial_of
from medsam2_atlas.base.choices import device_name
from medsam2_atlas.base.errors import InputError

log = logging.getLogger(__name__)

_PROCESSOR = "--device cpu runs networks on the processor."


def pick_device(name: str | None = None) -> torch.device:
    """Returns the device with a name: `cpu`, `cuda` (the first card), `cuda:N` or `auto` (the default).

    `auto` is the first card on which a kernel runs, or else the processor; a warning explains why a card is not used. A card
    that is only full is picked with a warning: memory may be free when a case arrives. The returned CUDA device always has a
    number, and computes in full precision from then on (`use_full_precision`), without kernels that are compiled when they are
    needed (`avoid_compiled_attention`).

    Raises:
        InputError: the name is unknown, PyTorch does not see the card, or no kernel runs on it.
    """
    name = device_name(name or "auto")
    if name == "cpu":
        return torch.device("cpu")
    device = _first_that_runs() if name == "auto" else _card_named(name)
    if device.type == "cuda":
        if trial_of(device).full:
            _warn(f"{device} has hardly any free memory at the moment. End other programs on it. {_PROCESSOR}")
        use_full_precision()
        avoid_compiled_attention()
    return device


def work_device(own: torch.device, requested: str = "") -> torch.device:
    """Returns the device of a work process: the device of the process that starts it, unless a client requests another.

    Args:
        own: device of the process that starts the work process.
        requested: `cpu`, `cuda` (the own GPU if there is one), `cuda:N`, or empty.

    Raises:
        InputError: the machine has no such device.
    """
    return own if requested in ("", own.type) else pick_device(requested)


def use_full_precision() -> None:
    """Stops cards from rounding factors of float32 products to TF32 (10 bits), and cuDNN from choosing algorithms by speed.

    By default, cuDNN rounds in convolutions. The engine's equality with the official predictor is promised for float32. With
    `benchmark`, cuDNN would use the algorithm that was fastest at the moment, so the same case could give different results.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions warn that these names are old; other versions lack the new names
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        for part in (torch.backends.cuda.matmul, *(getattr(torch.backends.cudnn, name, None) for name in ("conv", "rnn"))):
            if getattr(part, "fp32_precision", None) == "tf32":  # the old names do not override a setting by the new names
                part.fp32_precision = "ieee"  # type: ignore[union-attr]


def avoid_compiled_attention() -> None:
    """Stops PyTorch from computing attention in 16 bits by cuDNN, which compiles a kernel for each new size of its input.

    The steps of a case have many sizes. On an H100, the first case of a process took 18.1 s in fast mode with cuDNN, and 3.6 s
    with PyTorch's own kernels, which are part of its build; `docs/gpu.md` has all times.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def _card_named(name: str) -> torch.device:
    device = torch.device("cuda", int(name.partition(":")[2] or 0))
    seen = cards_seen()
    if not seen:
        trial = no_card()
    elif device not in seen:
        visible = f"PyTorch sees {', '.join(map(str, seen))}" + (f"; {hidden_cards()}" if hidden_cards() else "")
        raise InputError(name, f"does not exist. {visible}.", f"Choose another card. {_PROCESSOR}")
    else:
        trial = trial_of(device)
    if trial.problem:
        hidden = f" ({hidden_cards()})" if trial.absent and hidden_cards() else ""
        raise InputError(name, f"cannot be used: {trial.problem}{hidden}.", f"{trial.remedy} {_PROCESSOR}")
    return device


def _first_that_runs() -> torch.device:
    seen, full = cards_seen(), []
    for device in seen:
        trial = trial_of(device)
        if trial.problem:
            _warn(f"{device} is not used: {trial.problem}. {trial.remedy} {_PROCESSOR}")
        elif trial.full:
            full.append(device)
        else:
            return device
    if full:
        return full[0]
    if seen:
        _warn("No card can be used, so networks run on the processor, many times slower.")
    elif os.environ.get(HIDING) not in ("", "-1"):  # these two values hide all cards on purpose
        _warn_no_card()
    return torch.device("cpu")


def _warn_no_card() -> None:
    """Warns why no card is used if the machine seems to have one; a machine without a card needs no warning."""
    cause = no_card()
    message = f"No GPU is used: {cause.problem}. {cause.remedy} {_PROCESSOR}"
    if shows_card() or (has_cuda_build() and not cause.absent):
        _warn(message)


@functools.cache
def _warn(message: str) -> None:
    """Logs each warning once per process, which may load several networks."""
    log.warning("%s", message)
