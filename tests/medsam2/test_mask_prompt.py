"""Slices whose masks are known condition others as in the official predictor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from scipy import ndimage

from legacy import legacy_masked, legacy_predictor, seeded_state
from medsam2_atlas.medsam2 import MedSAM2Volume, Weights, build_network
from medsam2_atlas.medsam2 import propagation as engine_module
from medsam2_atlas.medsam2.mask_prompt import at_network_size, prompted_by_mask
from medsam2_atlas.medsam2.preprocessing import to_uint8
from medsam2_atlas.medsam2.tracks import Track

SHAPE = (9, 96, 110)


@dataclass
class Both:
    """The official predictor and the engine, on the same seeded weights and volume."""

    predictor: Any
    engine: MedSAM2Volume
    hu: np.ndarray

    def official(self, masks: Mapping[int, np.ndarray], first: int, last: int) -> np.ndarray:
        found = legacy_masked(self.predictor, to_uint8(self.hu), masks, first, last)
        return np.stack([found[z] for z in sorted(found)])

    def ours(self, masks: Mapping[int, np.ndarray], first: int, last: int) -> np.ndarray:
        track = Track(1, first, last, 1 if last > first else -1)
        for z, mask in masks.items():
            track.logits[z], track.starting[z] = self.engine._propagator.known(z, mask)
        self.engine._propagator.run([track])
        planes = [
            torch.nn.functional.interpolate(track.logits[z][None], SHAPE[1:], mode="bilinear")[0, 0].cpu().numpy()
            for z in range(min(first, last), max(first, last) + 1)
        ]
        return np.stack(planes)


@pytest.fixture(scope="module")
def both(narrow_config: DictConfig, device: torch.device) -> Both:
    walk = np.cumsum(np.random.default_rng(0).normal(0, 1, SHAPE), 0)
    smooth = ndimage.gaussian_filter(walk, (1, 6, 6))
    hu = (smooth - smooth.min()) / np.ptp(smooth) * 600 - 100
    state = seeded_state(narrow_config)
    network = build_network(narrow_config)
    network.load_state_dict(state)
    network.to(device)
    engine = MedSAM2Volume(Weights(network, narrow_config, Path("seeded"), "", ""), hu, batch=1)
    return Both(legacy_predictor(narrow_config, state).to(device), engine, hu)


def disc(y: int, x: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[: SHAPE[1], : SHAPE[2]]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


MASKS = {
    "one mask": ({1: disc(40, 50, 20)}, 1, 7),
    "two masks, downwards": ({7: disc(40, 50, 20), 2: disc(50, 60, 12)}, 7, 1),
    "an empty mask": ({1: disc(40, 50, 20), 3: np.zeros(SHAPE[1:], bool)}, 1, 7),
}


@pytest.mark.parametrize("case", MASKS)
def test_given_masks_condition_other_slices_as_in_the_official_predictor(both: Both, case: str) -> None:
    ours, theirs = both.ours(*MASKS[case]), both.official(*MASKS[case])
    difference = np.abs(ours - theirs)
    assert difference.mean() <= 1e-3
    assert difference.max() <= 0.1
    assert (theirs > 0).any() and (theirs < 0).any()


def test_the_comparison_notices_a_pointer_that_ignores_the_mask(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(network: Any, slices: Any, mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, _, presence = prompted_by_mask(network, slices, mask)
        return logits, prompted_by_mask(network, slices, np.ones_like(mask))[1], presence

    monkeypatch.setattr(engine_module, "prompted_by_mask", blind)
    masks, first, last = MASKS["one mask"]
    assert np.abs(both.ours(masks, first, last) - both.official(masks, first, last)).max() > 0.1


def test_the_logits_of_a_known_mask_are_ten(both: Both) -> None:
    mask = disc(40, 50, 20)
    logits, _ = both.engine._propagator.known(1, mask)
    assert float(logits.max()) == pytest.approx(10, abs=1e-4)
    assert float(logits.min()) == pytest.approx(-10, abs=1e-4)
    enlarged = torch.nn.functional.interpolate(logits[None], SHAPE[1:], mode="bilinear")[0, 0].cpu().numpy() > 0
    assert (enlarged ^ mask).sum() < 0.05 * mask.sum()


def test_a_mask_of_the_networks_size_is_not_resampled() -> None:
    mask = np.eye(16, dtype=bool)
    assert (at_network_size(mask, 16, torch.device("cpu"))[0, 0].numpy() == mask).all()
