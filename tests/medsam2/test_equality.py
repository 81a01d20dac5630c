"""The engine gives the official predictor's logits with the same weights, and a wrong engine fails.

The official weights are not available here, so a network of their shape gets seeded random weights. The comparison is
meaningful only if memories and pointers affect the result. The mutants prove that: each changes one property of the official
predictor, and each must exceed the tolerance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from scipy import ndimage

from legacy import legacy_logits, legacy_marked, legacy_predictor, seeded_state
from medsam2_atlas.medsam2 import OFFICIAL, MedSAM2Volume, Weights, build_network, load_config
from medsam2_atlas.medsam2.preprocessing import to_uint8
from medsam2_atlas.medsam2.propagation import Propagator
from medsam2_atlas.prompting import BoxPrompt, MarkedOrgan, OrganPrompt, SliceMarks

MEAN_TOLERANCE, MAX_TOLERANCE = 1e-3, 0.1

ONE_BOX = OrganPrompt(1, 0, 11, (BoxPrompt(9, (30, 20, 70, 60)),))
THREE_BOXES = OrganPrompt(
    1, 0, 11, (BoxPrompt(2, (35, 25, 75, 60)), BoxPrompt(9, (30, 20, 70, 60)), BoxPrompt(10, (32, 22, 66, 60)))
)
MARKED = {
    "a point": (SliceMarks(5, None, ((50, 40),)),),
    "points on and off": (SliceMarks(5, None, ((50, 40), (60, 45)), ((20, 20),)),),
    "a box with points": (SliceMarks(7, (30, 20, 70, 60), ((45, 35),), ((66, 56),)),),
    "boxes and a point on three slices": (
        SliceMarks(2, (35, 25, 75, 60)),
        SliceMarks(6, None, ((50, 40),)),
        SliceMarks(9, (30, 20, 70, 60), (), ((66, 56),)),
    ),
}


def ct(slices: int = 12) -> np.ndarray:
    """Returns a smooth random volume in HU; the slices below the middle fill all seven memories."""
    walk = np.cumsum(np.random.default_rng(0).normal(0, 1, (slices, 96, 110)), 0)
    smooth = ndimage.gaussian_filter(walk, (1, 6, 6))
    return np.asarray((smooth - smooth.min()) / np.ptp(smooth) * 600 - 100)


@dataclass
class Both:
    """The official predictor and the engine on the same weights and volume."""

    predictor: Any
    engine: MedSAM2Volume
    hu: np.ndarray

    def official(self, prompt: OrganPrompt, loop: str) -> np.ndarray:
        return legacy_logits(self.predictor, to_uint8(self.hu), prompt, loop)

    def officially_marked(self, organ: MarkedOrgan) -> np.ndarray:
        return legacy_marked(self.predictor, to_uint8(self.hu), organ)

    def marked(self, organ: MarkedOrgan) -> np.ndarray:
        found = self.engine.segment_marked(organ, patience=1000)
        return np.stack([found.plane(z, self.hu.shape[1:]).numpy() for z in range(organ.z_min, organ.z_max + 1)])

    def ours(self, prompt: OrganPrompt, loop: Any) -> np.ndarray:
        found = self.engine.segment([prompt], loop=loop)[prompt.label]
        return np.stack([found.plane(z, self.hu.shape[1:]).numpy() for z in range(prompt.z_min, prompt.z_max + 1)])


def both_of(config: DictConfig, hu: np.ndarray, device: torch.device) -> Both:
    state = seeded_state(config)
    network = build_network(config)
    network.load_state_dict(state)
    network.to(device)
    # Use batches of one, as the official predictor does. Larger batches change the last digits, which these weights amplify
    # if a mask is chosen or binarised. Another test compares batches.
    engine = MedSAM2Volume(Weights(network, config, Path("seeded"), "", ""), hu, batch=1)
    predictor = legacy_predictor(config, state).to(device)
    predictor.forward_image = once_for_each_slice(predictor.forward_image)
    return Both(predictor, engine, hu)


def once_for_each_slice(encode: Callable[[torch.Tensor], dict[str, Any]]) -> Callable[[torch.Tensor], dict[str, Any]]:
    """Caches the official encoder, which takes most of the time; prompts have no effect on it."""
    kept: dict[bytes, dict[str, Any]] = {}

    def encoded(images: torch.Tensor) -> dict[str, Any]:
        key = hashlib.sha256(images.cpu().numpy().tobytes()).digest()
        if key not in kept:
            kept[key] = encode(images)
        return {name: list(value) if isinstance(value, list) else value for name, value in kept[key].items()}

    return encoded


@pytest.fixture(scope="module")
def narrow(narrow_config: DictConfig, device: torch.device) -> Both:
    return both_of(narrow_config, ct(), device)


@pytest.fixture(scope="module")
def official(device: torch.device) -> Both:
    return both_of(load_config(OFFICIAL), ct(), device)


def assert_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    difference = np.abs(ours - theirs)
    assert np.abs(theirs).max() <= 100
    assert (theirs > 0).any() and (theirs < 0).any()
    assert difference.mean() <= MEAN_TOLERANCE
    assert difference.max() <= MAX_TOLERANCE


@contextmanager
def attribute(network: Any, name: str, value: Any) -> Iterator[None]:
    kept = getattr(network, name)
    setattr(network, name, value)
    try:
        yield
    finally:
        setattr(network, name, kept)


MUTANTS = {
    "memory kept in float32": lambda net: patch.object(Propagator, "_stored", staticmethod(lambda features: features)),
    "stride 2": lambda net: attribute(net, "memory_temporal_stride_for_eval", 2),
    "6 memories": lambda net: attribute(net, "num_maskmem", 6),
    "no multimask": lambda net: attribute(net, "multimask_output_in_sam", False),
    "pointers dropped": lambda net: patch.object(Propagator, "_ptrs", lambda *_: []),
    "prompts not binarised": lambda net: attribute(net, "binarize_mask_from_pts_for_mem_enc", False),
}


@pytest.mark.parametrize("loop", ["symmetric", "published"])
@pytest.mark.parametrize("prompt", [ONE_BOX, THREE_BOXES], ids=["1 box", "3 boxes"])
def test_the_narrow_engine_gives_the_official_predictors_logits(narrow: Both, prompt: OrganPrompt, loop: str) -> None:
    assert_equal(narrow.ours(prompt, loop), narrow.official(prompt, loop))


@pytest.mark.parametrize(("prompt", "loop"), [(ONE_BOX, "symmetric"), (THREE_BOXES, "symmetric"), (THREE_BOXES, "published")])
def test_the_official_networks_engine_gives_the_official_predictors_logits(
    official: Both, prompt: OrganPrompt, loop: str
) -> None:
    assert_equal(official.ours(prompt, loop), official.official(prompt, loop))


@pytest.mark.parametrize("name", MARKED)
def test_marks_give_the_official_predictors_logits(narrow: Both, name: str) -> None:
    organ = MarkedOrgan(1, 0, 11, MARKED[name])
    assert_equal(narrow.marked(organ), narrow.officially_marked(organ))


@pytest.mark.parametrize("name", ["a point", "boxes and a point on three slices"])
def test_marks_give_the_official_predictors_logits_with_the_official_network(official: Both, name: str) -> None:
    organ = MarkedOrgan(1, 0, 11, MARKED[name])
    assert_equal(official.marked(organ), official.officially_marked(organ))


@pytest.fixture(scope="module")
def official_logits(official: Both) -> np.ndarray:
    return official.official(THREE_BOXES, "symmetric")


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_official_networks_engine_is_noticed(name: str, official: Both, official_logits: np.ndarray) -> None:
    with MUTANTS[name](official.engine._net):
        difference = np.abs(official.ours(THREE_BOXES, "symmetric") - official_logits)
    assert difference.mean() > MEAN_TOLERANCE or difference.max() > MAX_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["symmetric", "published"])
def test_thirty_slices_of_the_official_network_stay_equal(loop: str, device: torch.device) -> None:
    long = both_of(load_config(OFFICIAL), ct(30), device)
    prompt = OrganPrompt(1, 1, 28, tuple(BoxPrompt(z, (30, 20, 70, 60)) for z in (7, 14, 21)))
    assert_equal(long.ours(prompt, loop), long.official(prompt, loop))


def test_organs_in_one_batch_have_the_same_logits_as_alone(narrow: Both, narrow_config: DictConfig) -> None:
    other = OrganPrompt(2, 3, 8, (BoxPrompt(5, (10, 50, 40, 80)),))
    weights = Weights(narrow.engine._net, narrow_config, Path("seeded"), "", "")
    together = MedSAM2Volume(weights, narrow.hu, batch=16).segment([THREE_BOXES, other])
    for prompt in (THREE_BOXES, other):
        assert_equal(together[prompt.label].values.numpy(), narrow.engine.segment([prompt])[prompt.label].values.numpy())


def test_each_slice_is_encoded_once_for_all_prompts(narrow_config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Weights(build_network(narrow_config), narrow_config, Path("seeded"), "", "")
    seen: list[int] = []
    encode = weights.prepared.encode
    monkeypatch.setattr(weights.prepared, "encode", lambda images: (seen.append(len(images)), encode(images))[1])
    engine = MedSAM2Volume(weights, ct())
    for prompt in (ONE_BOX, THREE_BOXES):
        engine.segment([prompt])
    assert sum(seen) == 12


def test_small_holes_are_filled_on_request(narrow: Both) -> None:
    open_ = narrow.engine.segment([ONE_BOX])[1].values
    filled = narrow.engine.segment([ONE_BOX], fill_holes=True)[1].values
    changed = filled != open_
    assert filled[changed] == pytest.approx(0.1)
    assert (open_[changed] <= 0).all()
