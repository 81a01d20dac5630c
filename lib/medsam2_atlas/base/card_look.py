"""Inspects all NVIDIA cards of a machine for `doctor`. `python -m medsam2_atlas.base.card_look` prints the result as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from medsam2_atlas.base.card_problems import Trial
from medsam2_atlas.base.cards import cards_seen, no_card, trial_of


@dataclass(frozen=True)
class Card:
    """A card that PyTorch sees.

    Attributes:
        device: name of the device, such as `cuda:0`.
        name: the card's model.
        capability: compute capability, such as `8.6`; empty if unknown.
        free: free memory in bytes; 0 if unknown.
        total: total memory in bytes; 0 if unknown.
        trial: whether a kernel ran on the card.
    """

    device: str
    name: str
    capability: str
    free: int
    total: int
    trial: Trial


@dataclass(frozen=True)
class Look:
    """The cards of a machine.

    Attributes:
        cards: the cards that PyTorch sees.
        driver: the driver's version; empty if unknown.
        cause: the reason why PyTorch sees no card; an empty `Trial` if it sees one.
    """

    cards: tuple[Card, ...]
    driver: str
    cause: Trial

    def as_json(self) -> str:
        """Returns the result as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Look:
        """Returns the result that `as_json` wrote as text."""
        found: dict[str, Any] = json.loads(text)
        cards = tuple(Card(**{**card, "trial": Trial(**card["trial"])}) for card in found["cards"])
        return cls(cards, found["driver"], Trial(**found["cause"]))


def look() -> Look:
    """Tries a kernel on each card that PyTorch sees, and returns the results."""
    cards = tuple(_card(device) for device in cards_seen())
    return Look(cards, driver_version(), Trial() if cards else no_card())


def driver_version() -> str:
    """Returns the version of the NVIDIA driver; empty if it is unknown or there is no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # noqa: BLE001 - NVML may be missing, broken, or not allowed here
        try:
            found = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", Path("/proc/driver/nvidia/version").read_text())
        except OSError:
            return ""
        return found[1] if found else ""


def _card(device: torch.device) -> Card:
    trial = trial_of(device)
    name, capability, free, total = "unknown card", "", 0, 0
    try:
        about = torch.cuda.get_device_properties(device)
        name, capability, total = about.name, f"{about.major}.{about.minor}", int(about.total_memory)
        free = int(torch.cuda.mem_get_info(device)[0])
    except Exception:  # noqa: BLE001 - a card that fails the trial may fail these queries too
        pass
    return Card(str(device), name, capability, free, total, trial)


if __name__ == "__main__":
    print(look().as_json())
