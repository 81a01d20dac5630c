"""Builds SAM 2.1 networks from the classes of PyPI's `sam2` and a YAML configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from medsam2_atlas.resource import resource

OFFICIAL = "sam2.1_hiera_t512"
DEMO = "demo"


def load_config(name_or_file: str | Path) -> DictConfig:
    """A network configuration: the name of one under `configs/medsam2`, or a YAML file.

    Raises:
        FileNotFoundError: there is no such configuration.
    """
    path = Path(name_or_file)
    if path.suffix not in {".yaml", ".yml"}:
        path = resource(f"configs/medsam2/{name_or_file}.yaml")
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return config


def build_network(config: DictConfig) -> Any:
    """The network (`sam2.modeling.sam2_base.SAM2Base`, on the CPU, in evaluation mode) with fresh random weights."""
    network = instantiate(config.model, _recursive_=True)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network.eval()


def parameter_shapes(config: DictConfig) -> dict[str, list[int]]:
    """Name and shape of every tensor that a checkpoint of this network holds, in its order."""
    with torch.random.fork_rng(devices=[]):
        state = build_network(config).state_dict()
    return {name: list(tensor.shape) for name, tensor in state.items()}
