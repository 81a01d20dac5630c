"""One way to pick the device that networks run on, and their precision there."""

from __future__ import annotations

import functools
import logging
import os
import warnings

import torch

from medsam2_atlas.base.card_problems import HIDING, hidden_cards
from medsam2_atlas.base.cards import cards_seen, has_cuda_build, no_card, shows_card, tried
from medsam2_atlas.base.choices import device_name
from medsam2_atlas.base.errors import InputError

log = logging.getLogger(__name__)

_PROCESSOR = "--device cpu runs networks on the processor."


def pick_device(name: str | None = None) -> torch.device:
    """Returns the device of that name: `cpu`, `cuda` (the first card), `cuda:N`, or `auto` (also if no name is given).

    `auto` is the first card that a kernel runs on, else the processor; a warning tells why a card is not used. A card that is
    merely full is picked, with a warning: it may have memory when a case comes. A CUDA device always has its number, and from
    then on computes in full precision (`use_full_precision`).

    Raises:
        InputError: another name, a card that PyTorch does not see, or one that no kernel runs on.
    """
    name = device_name(name or "auto")
    if name == "cpu":
        return torch.device("cpu")
    device = _first_that_runs() if name == "auto" else _card_named(name)
    if device.type == "cuda":
        if tried(device).full:
            _warn(f"{device} has hardly any free memory at the moment. End other programs on it. {_PROCESSOR}")
        use_full_precision()
    return device


def work_device(own: torch.device, asked: str = "") -> torch.device:
    """Returns the device of a work process: that of the process that starts it, unless a client asks for another.

    Args:
        own: of the process that starts it.
        asked: `cpu`, `cuda` (the own GPU if there is one), `cuda:N`, or empty.

    Raises:
        InputError: the machine has no such device.
    """
    return own if asked in ("", own.type) else pick_device(asked)


def use_full_precision() -> None:
    """Keeps cards from rounding factors of float32 products to TF32 (10 bits), and cuDNN from choosing algorithms by time.

    By default, cuDNN rounds in convolutions. The engine's equality with the official predictor is promised for float32. With
    `benchmark`, cuDNN would take the algorithm that was fastest just now, so the same case could come out differently.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of PyTorch want the new names, which not all have, or can mix
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        for part in (torch.backends.cuda.matmul, *(getattr(torch.backends.cudnn, name, None) for name in ("conv", "rnn"))):
            if getattr(part, "fp32_precision", None) == "tf32":  # the old names do not reach what the new ones have set
                part.fp32_precision = "ieee"  # type: ignore[union-attr]


def _card_named(name: str) -> torch.device:
    device = torch.device("cuda", int(name.partition(":")[2] or 0))
    seen = cards_seen()
    if not seen:
        trial = no_card()
    elif device not in seen:
        there = f"PyTorch sees {', '.join(map(str, seen))}" + (f"; {hidden_cards()}" if hidden_cards() else "")
        raise InputError(name, f"is not there. {there}.", f"Choose another card. {_PROCESSOR}")
    else:
        trial = tried(device)
    if trial.problem:
        hidden = f" ({hidden_cards()})" if trial.absent and hidden_cards() else ""
        raise InputError(name, f"cannot be used: {trial.problem}{hidden}.", f"{trial.remedy} {_PROCESSOR}")
    return device


def _first_that_runs() -> torch.device:
    seen, full = cards_seen(), []
    for device in seen:
        trial = tried(device)
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
    elif os.environ.get(HIDING) not in ("", "-1"):  # cards are hidden on purpose
        _tell_no_card()
    return torch.device("cpu")


def _tell_no_card() -> None:
    """Tells why no card is used if there seems to be one; nothing is wrong on a machine without one."""
    cause = no_card()
    message = f"No GPU is used: {cause.problem}. {cause.remedy} {_PROCESSOR}"
    if shows_card() or (has_cuda_build() and not cause.absent):
        _warn(message)


@functools.cache
def _warn(message: str) -> None:
    """Warns once in a process, in which several networks may be loaded one after the other."""
    log.warning("%s", message)
