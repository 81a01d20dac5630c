"""The checkpoint from which an interrupted training resumes (`latest.pt`)."""

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
        file: the checkpoint file to write.
        config: the configuration of the run.
        parts: objects with a `state_dict`, by name; None is stored as an empty state.
        values: values to store unchanged: `epoch`, `finished`, `stats`, `spent` (seconds),
            `energy` (see `energy.RunEnergy`).
    """
    states = {name: part.state_dict() if part is not None else {} for name, part in parts.items()}
    with replacing(file) as part:
        torch.save({"config": config.model_dump_json(), **values, **states}, part)


def read_checkpoint(file: Path, config: UNetConfig) -> dict[str, Any] | None:
    """Reads the checkpoint from which a run of this configuration can resume.

    Returns:
        The content of the file. None if the file is missing, its run has finished, or its configuration differs.

    Raises:
        WeightsError: if the file contains code.
        InputError: if the file cannot be read.
    """
    if not file.is_file():
        return None
    try:
        kept: dict[str, Any] = load_tensors(file)  # loaded on the CPU: a run may resume on a different device
    except WeightsError:
        raise
    except Exception as error:
        raise InputError(file, f"cannot be read ({error}).", "Remove it to train from the start.") from error
    return None if kept["finished"] or not _is_own(kept["config"], config) else kept


def restore_parts(kept: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Loads each part's state from a checkpoint; parts that the checkpoint does not contain stay unchanged."""
    for name, part in parts.items():
        if part is not None and kept.get(name):
            part.load_state_dict(kept[name])


def _is_own(config: str, own: UNetConfig) -> bool:
    """Returns whether a stored configuration (JSON) equals this one; options missing in the stored one get their defaults."""
    try:
        return UNetConfig.model_validate_json(config) == own
    except ValidationError:  # an option has been removed since, or its allowed range has changed
        return False
