"""The engine gives the official predictor's logits with the same weights.

In float64, results are equal up to a millionth: the engine has the official semantics. In float32, they are equal up to
rounding, except behind ties (`ties`). Another test shows that wrong engines are noticed (`test_equality_mutants`).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from equality import FLOAT64_TOLERANCE, Both, Case, boxes, cases
from legacy import legacy_logits, legacy_predictor, seeded_state
from medsam2_atlas.base.choices import Loop
from medsam2_atlas.medsam2 import OFFICIAL, load_config
from medsam2_atlas.medsam2.arithmetic import Arithmetic
from medsam2_atlas.medsam2.batched_attention import BatchedMemoryAttention
from medsam2_atlas.medsam2.batched_propagation import BatchedPropagator
from medsam2_atlas.medsam2.preprocessing import to_uint8
from medsam2_atlas.medsam2.propagation import Propagator
from medsam2_atlas.prompting import OrganPrompt
from precision import computing_in
from ties import MAX_TOLERANCE

FULL = Case(boxes(0, 17, 17))
"""A case whose last slices read as many memories and object pointers as there can be."""
SHORT = cases(8, 2, 5, 8)
NARROW = {"one box, all memories and pointers": FULL, **SHORT}
FEW = cases(4, 1, 2, 3)
"""Cases on five slices, for the official network in float64."""
SIX = cases(5, 1, 3, 5)
"""Cases on six slices, for the official network in float32."""


@pytest.fixture(scope="module")
def narrow_in_float64(narrow_config: DictConfig, device: torch.device) -> Both:
    return Both(narrow_config, 18, device, torch.float64)


@pytest.fixture(scope="module")
def narrow(narrow_config: DictConfig, device: torch.device) -> Both:
    return Both(narrow_config, 18, device)


@pytest.fixture(scope="module")
def official_in_float64(device: torch.device) -> Both:
    return Both(load_config(OFFICIAL), 5, device, torch.float64, official_features=True)


@pytest.fixture(scope="module")
def official(device: torch.device) -> Both:
    return Both(load_config(OFFICIAL), 6, device)


def test_the_official_predictor_with_its_casts_replaced_is_the_same_in_float32(narrow: Both, narrow_config: DictConfig) -> None:
    case = SHORT["three boxes, published loop"]
    assert isinstance(case.organ, OrganPrompt)
    predictor = legacy_predictor(narrow_config, seeded_state(narrow_config))
    original = legacy_logits(predictor, to_uint8(narrow.hu), case.organ, case.loop)
    with computing_in(torch.float32):
        predictor = legacy_predictor(narrow_config, seeded_state(narrow_config))
        replaced = legacy_logits(predictor, to_uint8(narrow.hu), case.organ, case.loop)
    assert np.array_equal(original, replaced)


@pytest.mark.parametrize("name", NARROW)
def test_the_narrow_engine_has_the_official_semantics(name: str, narrow_in_float64: Both) -> None:
    assert narrow_in_float64.difference(NARROW[name]) <= FLOAT64_TOLERANCE
    assert narrow_in_float64.official(NARROW[name]).logits.dtype == np.float64
    rounding = {function for function in narrow_in_float64.narrow if not function.endswith("torch.bfloat16")}
    assert not rounding, "nothing but memories is rounded"


def test_organs_that_are_absent_from_slices_have_the_official_semantics(
    narrow_config: DictConfig, device: torch.device
) -> None:
    both = Both(narrow_config, 9, device, torch.float64, absent=True)
    for name in ("one box", "three boxes, published loop"):
        assert both.difference(SHORT[name]) <= FLOAT64_TOLERANCE
        presence = {decision.presence > 0 for decision in both.official(SHORT[name]).decisions.values()}
        assert presence == {True, False}


@pytest.mark.parametrize("on_gpu", [False, True], ids=["the CPU's engine", "the GPU's engine"])
def test_organs_in_one_batch_have_the_official_semantics(on_gpu: bool, narrow_in_float64: Both) -> None:
    names = ["one box", "three boxes, published loop"]
    prompts = [replace(SHORT[name].organ, label=label) for label, name in enumerate(names)]
    engine = narrow_in_float64.new_engine(batch=16)
    with narrow_in_float64.computing():
        if on_gpu:  # its arithmetic on the CPU, in float64
            prepared = engine._propagator._prepared
            prepared.memory_attention = BatchedMemoryAttention(prepared.network, Arithmetic("cpu"))
            engine._propagator = BatchedPropagator(prepared, engine._features, len(narrow_in_float64.hu), 16)
        together = engine.segment(prompts, loop="published")
    for label, name in enumerate(names):
        decisions = narrow_in_float64.official(SHORT[name]).decisions
        theirs = torch.stack([decisions[z].logits for z in SHORT[name].slices]).cpu()
        assert float((together[label].values - theirs).abs().max()) <= FLOAT64_TOLERANCE


def test_a_case_reads_as_many_memories_and_pointers_as_possible(narrow: Both) -> None:
    numbers: dict[str, set[int]] = {"_spatial": set(), "_ptrs": set()}
    with ExitStack() as stack:
        for method, seen in numbers.items():
            usual = getattr(Propagator, method)

            def counted(*args: Any, usual: Any = usual, seen: set[int] = seen) -> Any:
                found = usual(*args)
                seen.add(len(found))
                return found

            stack.enter_context(patch.object(Propagator, method, counted))
        narrow.ours(FULL)
    assert {method: max(seen) for method, seen in numbers.items()} == {"_spatial": 7, "_ptrs": 16}


@pytest.mark.parametrize("name", ["three boxes, published loop", "boxes and a point on three slices"])
def test_the_official_networks_engine_has_the_official_semantics(name: str, official_in_float64: Both) -> None:
    assert official_in_float64.difference(FEW[name]) <= FLOAT64_TOLERANCE


@pytest.mark.parametrize("name", NARROW)
def test_the_narrow_engine_has_the_official_arithmetic(name: str, narrow: Both) -> None:
    narrow.assert_equal_except_behind_ties(NARROW[name])


@pytest.mark.parametrize("name", ["one box", "three boxes, published loop"])
def test_the_official_networks_engine_has_the_official_arithmetic(name: str, official: Both) -> None:
    official.assert_equal_except_behind_ties(SIX[name])


def test_a_wrong_engine_of_the_official_network_is_noticed(official: Both) -> None:
    case = SIX["one box"]
    with patch.object(official.engine._net, "memory_temporal_stride_for_eval", 2):
        assert official.difference(case) > MAX_TOLERANCE
        with pytest.raises(AssertionError, match="no decision before it is a tie"):
            official.assert_equal_except_behind_ties(case)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one box", "three boxes, published loop", "a box with points"])
def test_nine_slices_of_the_official_network_have_the_official_semantics(name: str, device: torch.device) -> None:
    both = Both(load_config(OFFICIAL), 9, device, torch.float64)
    assert both.difference(SHORT[name]) <= FLOAT64_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["symmetric", "published"])
def test_thirty_slices_of_the_official_network_have_the_official_arithmetic(loop: Loop, device: torch.device) -> None:
    long = Both(load_config(OFFICIAL), 30, device)
    long.assert_equal_except_behind_ties(Case(boxes(1, 28, 7, 14, 21), loop))
