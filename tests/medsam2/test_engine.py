"""The engine encodes each slice once, and fills small holes on request."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig

from equality import boxes, ct
from legacy import seeded_state
from medsam2_atlas.medsam2 import MedSAM2Volume, Weights, build_network

PROMPT = boxes(0, 5, 3)


@pytest.fixture(scope="module")
def weights(narrow_config: DictConfig) -> Weights:
    network = build_network(narrow_config)
    network.load_state_dict(seeded_state(narrow_config))
    return Weights(network, narrow_config, Path("seeded"), "", "")


def test_each_slice_is_encoded_once_for_all_prompts(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = weights.prepared.encode
    monkeypatch.setattr(weights.prepared, "encode", lambda images: (seen.append(len(images)), encode(images))[1])
    engine = MedSAM2Volume(weights, ct(6))
    for prompt in (PROMPT, boxes(0, 5, 1, 2, 4)):
        engine.segment([prompt])
    assert sum(seen) == 6


def test_small_holes_are_filled_on_request(weights: Weights) -> None:
    engine = MedSAM2Volume(weights, ct(6))
    open_ = engine.segment([PROMPT])[1].values
    filled = engine.segment([PROMPT], fill_holes=True)[1].values
    changed = filled != open_
    assert changed.any()
    assert filled[changed] == pytest.approx(0.1)
    assert (open_[changed] <= 0).all()
