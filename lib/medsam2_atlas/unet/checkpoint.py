"""The checkpoint from which a stopped training goes on (`latest.pt`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from medsam2_atlas.base.errors import InputError, WeightsError
from medsam2_atlas.base.files import replacing
from medsam2_atlas.base.tensor_files import load_tensors
from medsam2_atlas.unet.config import UNetConfig


def write_checkpoint(file: Path, config: UNetConfig, parts: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Writes a checkpoint in one step.

    Args:
        file: to write.
        config: of the run.
        parts: objects with a state (`state_dict`), by name; None is kept as an empty state.
        values: stored as they are: `epoch`, `finished`, `stats`, `spent` (seconds).
    """
    states = {name: part.state_dict() if part is not None else {} for name, part in parts.items()}
    with replacing(file) as part:
        torch.save({"config": config.model_dump_json(), **values, **states}, part)


def read_checkpoint(file: Path, config: UNetConfig) -> dict[str, Any] | None:
    """Returns a checkpoint that a run of this configuration goes on from; None if there is none.

    Raises:
        WeightsError: it holds code.
        InputError: it cannot be read.
    """
    if not file.is_file():
        return None
    try:
        kept: dict[str, Any] = load_tensors(file)  # states are copied to the device: a run goes on wherever the other was
    except WeightsError:
        raise
    except Exception as error:
        raise InputError(file, f"cannot be read ({error}).", "Remove it to train from the start.") from error
    return None if kept["finished"] or not _is_own(kept["config"], config) else kept


def restore_parts(kept: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Gives the parts the states that a checkpoint holds of them; one that it does not hold stays as it is."""
    for name, part in parts.items():
        if part is not None and kept.get(name):
            part.load_state_dict(kept[name])


def _is_own(config: str, own: UNetConfig) -> bool:
    """Returns whether a stopped run had this configuration; what its version did not know yet is compared by its default."""
    try:
        return UNetConfig.model_validate_json(config) == own
    except ValidationError:  # an option that is gone since, or another value's range
        return False
