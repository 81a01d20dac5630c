"""Finds, checks and loads weights."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from medsam2_atlas.base.choices import Mode
from medsam2_atlas.base.errors import WeightsError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.precision import engine_dtype
from medsam2_atlas.base.resource import model_folder, resource
from medsam2_atlas.base.tensor_files import load_tensors
from medsam2_atlas.medsam2.arithmetic import Arithmetic
from medsam2_atlas.medsam2.config import medsam2_config
from medsam2_atlas.medsam2.network import OFFICIAL, build_network, config_names, load_config
from medsam2_atlas.medsam2.prepared import PreparedNetwork

OFFICIAL_FILE = "MedSAM2_latest.pt"
DEMO_FILE = "medsam2_demo.pt"
ENVIRONMENT = "MEDSAM2_CHECKPOINT"


@dataclass(frozen=True)
class Weights:
    """A network with its weights, and their origin.

    Attributes:
        network: the network, a `SAM2Base`.
        config: the network's configuration.
        file: the checkpoint that was loaded.
        sha256: the checksum of the checkpoint.
        mark: the text that marks results, for example of demo weights; empty if the checkpoint contains none.
    """

    network: Any
    config: DictConfig
    file: Path
    sha256: str
    mark: str

    @property
    def device(self) -> torch.device:
        """The device of the network's parameters."""
        device: torch.device = next(self.network.parameters()).device
        return device

    @cached_property
    def prepared(self) -> PreparedNetwork:
        """The network prepared for inference, made at first use.

        Raises:
            WeightsError: the network's structure is not that of SAM 2.1.
        """
        return self._prepared()

    @cached_property
    def _prepared_in_16_bits(self) -> PreparedNetwork:
        return self._prepared(self._dtype("fast"))

    def _dtype(self, mode: Mode) -> torch.dtype:
        return engine_dtype(self.device, mode, medsam2_config().fast_precision)

    def _prepared(self, half: torch.dtype | None = None) -> PreparedNetwork:
        with Arithmetic(self.device.type)():  # a caller's autocast would round the folded weights
            return PreparedNetwork(self.network, half)

    def prepared_for(self, mode: Mode) -> PreparedNetwork:
        """Returns the network prepared for a mode: in fast mode with 16-bit products, if they pay (`engine_dtype`)."""
        return self.prepared if self._dtype(mode) == torch.float32 else self._prepared_in_16_bits

    def on(self, device: torch.device) -> Weights:
        """Returns the weights on a device: these weights if they are on it, else a copy.

        Raises:
            torch.OutOfMemoryError: the device has too little memory for the copy.
        """
        return self if device == self.device else replace(self, network=copy.deepcopy(self.network).to(device))

    def describe(self) -> dict[str, str]:
        """Returns the file, its checksum and the mark, for reports."""
        return {"file": str(self.file), "sha256": self.sha256, "mark": self.mark}


def find_checkpoint(given: Path | None = None, demo: bool = True) -> Path:
    """Returns the checkpoint to use.

    The search order is `given`, `$MEDSAM2_CHECKPOINT`, the official weights in the model folder, the demo weights.

    Args:
        given: a checkpoint that takes precedence and must exist; None by default.
        demo: whether the demo weights are acceptable.

    Raises:
        WeightsError: the given file does not exist, or there is no checkpoint.
    """
    if given is not None or os.environ.get(ENVIRONMENT):
        chosen = given if given is not None else Path(os.environ[ENVIRONMENT])
        if not chosen.is_file():
            where = "" if given is not None else f" (from ${ENVIRONMENT})"
            raise WeightsError(chosen, f"is not a file{where}.", "Name a MedSAM2 checkpoint (.pt).")
        return chosen
    official = model_folder() / OFFICIAL_FILE
    if official.is_file():
        return official
    if demo:
        try:
            return resource(f"weights/{DEMO_FILE}")
        except FileNotFoundError:
            pass
    raise WeightsError(
        official, "is missing.", f"Run `medsam2-atlas weights fetch`, or name a file by --checkpoint or ${ENVIRONMENT}."
    )


def load_weights(file: Path, config: str | Path | None = None, device: torch.device | None = None) -> Weights:
    """Loads a checkpoint `{"model": state_dict}`. It must contain exactly the network's tensors, each of the right shape.

    Args:
        file: the checkpoint.
        config: the network's configuration, by name or file. By default, it is the configuration that the checkpoint names (as
            demo weights do), or else the official one. A checkpoint may name only configurations that come with the project,
            because a configuration determines which code runs.
        device: the device of the network; the CPU by default.

    Raises:
        WeightsError: the file is not a checkpoint, or it belongs to another network (the message names the tensors); the
            configuration does not exist.
    """
    content = _read(file)
    chosen = load_config(config if config is not None else _named_config(file, content.get("config")))
    network = build_network(chosen)
    _check_state(file, network.state_dict(), content["model"])
    network.load_state_dict(content["model"], strict=True)
    mark = content.get("mark", "")
    return Weights(network.to(device or torch.device("cpu")), chosen, file, sha256(file), mark if isinstance(mark, str) else "")


def _named_config(file: Path, named: object) -> str:
    """Returns the configuration that a checkpoint names; the official one if it names none."""
    if not isinstance(named, str):
        return OFFICIAL
    if named not in config_names():
        raise WeightsError(
            file,
            f"names the network configuration {named[:80]!r}, which did not come with this program.",
            "If you trust that configuration, name it yourself (--config).",
        )
    return named


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise WeightsError(file, "is not a file.", "Name a MedSAM2 checkpoint (.pt).")
    try:
        content = load_tensors(file)
    except WeightsError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WeightsError(
            file, f"is not a PyTorch checkpoint ({reason}).", "Download it again, or name another file."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise WeightsError(file, 'does not have the form {"model": state_dict}.', "Use a checkpoint of MedSAM2 as published.")
    if not all(isinstance(t, torch.Tensor) for t in content["model"].values()):
        raise WeightsError(
            file, "contains values other than tensors in its state.", "Use a checkpoint of MedSAM2 as published."
        )
    return content


def _check_state(file: Path, expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    shapes = [
        f"{name} {list(found[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems = [
        f"{what} {len(names)} tensors ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (("lacks", missing), ("has unknown", extra), ("has misshapen", shapes))
        if names
    ]
    if problems:
        raise WeightsError(
            file, f"does not fit the network: it {'; '.join(problems)}.", "Use the configuration that it was trained with."
        )
