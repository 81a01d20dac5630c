"""Networks are made only on the requested device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from medsam2_atlas.base.resource import resource
from medsam2_atlas.medsam2 import DEMO, OFFICIAL, MedSAM2Volume, build_network, load_config, load_weights, parameter_shapes
from medsam2_atlas.prompting import BoxPrompt, OrganPrompt
from pretended_gpu import PretendedTensor, pretended_gpu

DEMO_WEIGHTS = Path(resource("weights/medsam2_demo.pt"))
PROMPT = OrganPrompt(1, 0, 2, (BoxPrompt(1, (10, 10, 40, 40)),))


def written_out(tmp_path: Path) -> Path:
    """Writes a user's own configuration: the demo's, with the names of sam2 and explicit defaults."""
    config: Any = OmegaConf.to_container(load_config(DEMO))
    config["model"]["memory_encoder"]["position_encoding"]["warmup_cache"] = True
    (tmp_path / "own.yaml").write_text(OmegaConf.to_yaml(config))
    return tmp_path / "own.yaml"


LOADS: dict[str, Callable[[Path], Any]] = {
    "demo weights": lambda _: load_weights(DEMO_WEIGHTS, None, torch.device("cpu")),
    "a configuration of one's own": lambda folder: load_weights(DEMO_WEIGHTS, written_out(folder)),
    "the official network": lambda _: build_network(load_config(OFFICIAL)),
    "shapes of a checkpoint": lambda _: parameter_shapes(load_config(DEMO)),
}


@pytest.mark.parametrize("name", LOADS)
def test_loading_for_the_cpu_runs_nothing_on_a_gpu(name: str, tmp_path: Path) -> None:
    with pretended_gpu() as machine:
        LOADS[name](tmp_path)
        assert not machine.cards[0].operations


def test_a_network_on_the_cpu_runs_even_if_the_gpu_is_full() -> None:
    with pretended_gpu(megabytes=0) as machine:
        MedSAM2Volume(load_weights(DEMO_WEIGHTS), np.zeros((3, 64, 64))).segment([PROMPT])
        assert not machine.cards[0].operations


def test_a_network_on_the_second_gpu_does_not_use_the_first() -> None:
    with pretended_gpu(2) as machine:
        weights = load_weights(DEMO_WEIGHTS, None, torch.device("cuda:1"))
        MedSAM2Volume(weights, np.zeros((3, 64, 64))).segment([PROMPT])
        assert not machine.cards[0].operations
        assert machine.cards[1].count


def test_weights_that_move_leave_nothing_on_their_previous_device() -> None:
    with pretended_gpu(2) as machine:
        weights = load_weights(DEMO_WEIGHTS, None, torch.device("cuda:0"))
        MedSAM2Volume(weights, np.zeros((3, 64, 64))).segment([PROMPT])
        weights = weights.on(torch.device("cuda:1"))
        assert machine.cards[0].used == 0
        MedSAM2Volume(weights, np.zeros((3, 64, 64))).segment([PROMPT])
        weights = weights.on(torch.device("cpu"))
        assert machine.cards[1].used == 0
        before = [card.count for card in machine.cards]
        MedSAM2Volume(weights, np.zeros((3, 64, 64))).segment([PROMPT])
        assert [card.count for card in machine.cards] == before


def test_sam2s_own_classes_would_use_the_first_gpu(narrow_config: DictConfig) -> None:
    with pretended_gpu() as machine:
        network = instantiate(narrow_config.model, _recursive_=True)
        assert machine.cards[0].count > 100
        assert any(isinstance(getattr(m, "freqs_cis", None), PretendedTensor) for m in network.modules())


def test_encodings_equal_those_of_sam2_to_the_last_bit(narrow_config: DictConfig) -> None:
    theirs, ours = instantiate(narrow_config.model, _recursive_=True), build_network(narrow_config)
    features = torch.zeros(2, 64, 8, 8)
    for name in ("image_encoder.neck.position_encoding", "memory_encoder.position_encoding"):
        assert torch.equal(ours.get_submodule(name)(features), theirs.get_submodule(name)(features))
    tables = [[m.freqs_cis for m in network.modules() if hasattr(m, "freqs_cis")] for network in (ours, theirs)]
    assert len(tables[0]) == len(tables[1]) == 8
    assert all(torch.equal(a, b.cpu()) for a, b in zip(*tables, strict=True))  # the tables of sam2 are on a GPU if there is one
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("parts", ["sam2.modeling", "medsam2_atlas.medsam2"])
def test_a_configuration_may_name_classes_of_sam2_or_of_the_project(parts: str) -> None:
    text = OmegaConf.to_yaml(load_config(DEMO))
    if parts != "sam2.modeling":
        for own, theirs in (("PositionEmbeddingSine", "position_encoding"), ("RoPEAttention", "sam.transformer")):
            text = text.replace(f"sam2.modeling.{theirs}.{own}", f"medsam2_atlas.medsam2.tables.{own}")
    config = OmegaConf.create(text)
    assert isinstance(config, DictConfig)
    assert {type(m).__module__ for m in build_network(config).modules() if type(m).__name__ == "RoPEAttention"} == {
        "medsam2_atlas.medsam2.tables"
    }
