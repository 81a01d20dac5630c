"""Builds SAM 2.1 networks from the classes of the package `sam2` and a YAML configuration."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from medsam2_atlas.base.errors import WeightsError
from medsam2_atlas.base.resource import resource

OFFICIAL = "sam2.1_hiera_t512"
DEMO = "demo"

# Classes of sam2 whose constructors use CUDA, and the project's classes that replace them.
_REPLACED = {
    "sam2.modeling.position_encoding.PositionEmbeddingSine": "medsam2_atlas.medsam2.tables.PositionEmbeddingSine",
    "sam2.modeling.sam.transformer.RoPEAttention": "medsam2_atlas.medsam2.tables.RoPEAttention",
}


def config_names() -> tuple[str, ...]:
    """Returns the names of the configurations that come with the project, in `configs/medsam2`."""
    return tuple(sorted(file.stem for file in resource("configs/medsam2").glob("*.yaml")))


def load_config(name_or_file: str | Path) -> DictConfig:
    """Returns a network configuration, given its name in `configs/medsam2` or a YAML file.

    Raises:
        WeightsError: there is no such configuration, or the file has another content.
    """
    path, names = Path(name_or_file), config_names()
    if path.suffix not in {".yaml", ".yml"}:
        if str(name_or_file) not in names:
            raise WeightsError(
                name_or_file, "is not a network configuration.", f"Choose {' or '.join(names)}, or name a YAML file."
            )
        path = resource(f"configs/medsam2/{name_or_file}.yaml")
    try:
        config = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise WeightsError(
            path, f"cannot be read as a network configuration ({reason}).", "Name a YAML file like those in configs/medsam2/."
        ) from error
    if not isinstance(config, DictConfig) or not isinstance(config.get("model"), DictConfig):
        raise WeightsError(path, "is not a network configuration.", "Name a YAML file like those in configs/medsam2/.")
    return config


def build_network(config: DictConfig) -> Any:
    """Returns a network (`sam2.modeling.sam2_base.SAM2Base`) with random weights, in evaluation mode.

    The whole network is built on the CPU, even on a machine with a GPU.

    Raises:
        WeightsError: the configuration names classes that the project's own configurations do not use. Hydra calls whatever a
            configuration names, which could be any function of any package.
    """
    model = OmegaConf.to_container(config.model, resolve=True)
    foreign = sorted(set(_targets(model)) - _known_targets())
    if foreign:
        listed = ", ".join(name[:80] for name in foreign[:3])
        raise WeightsError(
            "network configuration", f"names classes that are not part of SAM 2.1: {listed}.", "See configs/medsam2/."
        )
    network = instantiate(_replaced(model), _recursive_=True)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network.eval()


def parameter_shapes(config: DictConfig) -> dict[str, list[int]]:
    """Returns the name and shape of each tensor in a checkpoint of this network, in the checkpoint's order."""
    with torch.random.fork_rng(devices=[]):
        state = build_network(config).state_dict()
    return {name: list(tensor.shape) for name, tensor in state.items()}


@cache
def _known_targets() -> frozenset[str]:
    """Returns the classes that the project's configurations name, and the project's replacements."""
    configs = (OmegaConf.to_container(load_config(name), resolve=True) for name in config_names())
    return frozenset(name for config in configs for name in _targets(config)) | frozenset(_REPLACED.values())


def _replaced(part: Any) -> Any:
    """Returns a configuration in which the project's classes replace those of sam2."""
    if isinstance(part, dict):
        return {key: _REPLACED.get(value, value) if key == "_target_" else _replaced(value) for key, value in part.items()}
    return [_replaced(value) for value in part] if isinstance(part, list) else part


def _targets(part: Any) -> Iterator[str]:
    """Yields the values of all keys `_target_` in a configuration."""
    if isinstance(part, dict):
        if "_target_" in part:
            yield str(part["_target_"])
        for value in part.values():
            yield from _targets(value)
    elif isinstance(part, list):
        for value in part:
            yield from _targets(value)
