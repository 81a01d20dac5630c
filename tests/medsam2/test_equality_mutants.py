"""Wrong engines differ from the official predictor by far more than the tolerance in float64.

Each has one fault. The narrow network therefore depends on everything that the faults concern.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from omegaconf import DictConfig
from sam2.modeling.position_encoding import compute_axial_cis

from equality import FLOAT64_TOLERANCE, Both, cases
from medsam2_atlas.medsam2 import propagation
from medsam2_atlas.medsam2.propagation import Propagator

CASES = cases(8, 2, 5, 8)
MARGIN = 1000 * FLOAT64_TOLERANCE


@dataclass(frozen=True)
class Mutant:
    """A wrong engine.

    Attributes:
        network: changes the network before it is prepared for inference.
        patch: returns a context in which the engine's code is changed.
        case: the name of the case that notices the fault.
        absent: whether the organ is absent from some slices of that case.
    """

    network: Callable[[Any], None] = lambda network: None
    patch: Callable[[], Any] = nullcontext
    case: str = "three boxes"
    absent: bool = False


def attribute(name: str, value: Any, case: str = "three boxes") -> Mutant:
    """Returns an engine whose network has another value of an attribute."""
    return Mutant(lambda network: setattr(network, name, value), case=case)


def zeros(name: str, **options: Any) -> Mutant:
    """Returns an engine without an embedding, which is replaced by zeros."""
    return Mutant(lambda network: network.get_parameter(name).zero_(), **options)


def changed(method: str, change: Callable[[Any], Any], **options: Any) -> Mutant:
    """Returns an engine in which a method of the propagator has another result."""
    usual = getattr(Propagator, method)
    return Mutant(patch=lambda: patch.object(Propagator, method, lambda *args: change(usual(*args))), **options)


def reversed_layers(network: Any) -> None:
    network.memory_attention.layers = torch.nn.ModuleList(reversed(network.memory_attention.layers))


def reversed_positions(network: Any) -> None:
    network.maskmem_tpos_enc.copy_(network.maskmem_tpos_enc.flip(0))


def swapped_corners(network: Any) -> None:
    first, last = (network.sam_prompt_encoder.point_embeddings[n].weight for n in (2, 3))
    kept = first.clone()
    first.copy_(last)
    last.copy_(kept)


def unplaced_memories(network: Any) -> None:
    encode = network.memory_encoder.position_encoding.forward
    network.memory_encoder.position_encoding.forward = lambda maps: 0 * encode(maps)


def other_rotation(network: Any) -> None:
    for layer in network.memory_attention.layers:
        layer.cross_attn_image.compute_cis = partial(compute_axial_cis, dim=256, theta=100.0)


MUTANTS = {
    "memories are not rounded": Mutant(patch=lambda: patch.object(Propagator, "_stored", staticmethod(lambda memory: memory))),
    "memories of every second slice": attribute("memory_temporal_stride_for_eval", 2),
    "six memories": attribute("num_maskmem", 6, "one box"),
    "the newest memory is missing": changed("_spatial", lambda memories: [m for m in memories if m[0] < 6]),
    "the starting slices' memories are missing": changed(  # if there are others, since a batch on a GPU has one memory at least
        "_spatial", lambda memories: [m for m in memories if m[0] > 0] or memories
    ),
    "the starting slices' memories are placed like the oldest": changed(
        "_spatial", lambda memories: [(max(place, 1), memory) for place, memory in memories]
    ),
    "memories are placed one slice too near": changed(
        "_spatial", lambda memories: [(place + (0 < place < 6), memory) for place, memory in memories]
    ),
    "temporal positions are in the opposite order": Mutant(reversed_positions),
    "memories have no spatial position": Mutant(unplaced_memories),
    "other rotary frequencies": Mutant(other_rotation),
    "layers of the memory attention in the opposite order": Mutant(reversed_layers),
    "no pointers": changed("_ptrs", lambda pointers: []),
    "five pointers": attribute("max_obj_ptrs_in_encoder", 5, "one box"),
    "pointers of slices still to come": attribute("only_obj_ptrs_in_the_past_for_eval", False),
    "pointers' distances have the opposite sign": changed("_ptrs", lambda pointers: [(-d, pointer) for d, pointer in pointers]),
    "pointers have no temporal position": zeros("obj_ptr_tpos_proj.weight"),
    "one candidate mask": attribute("multimask_output_in_sam", False),
    "prompted masks are not binarised": attribute("binarize_mask_from_pts_for_mem_enc", False),
    "another scale of masks in memories": attribute("sigmoid_scale_for_mem_enc", 10.0),
    "starting slices have no embedding of missing memory": zeros("no_mem_embed"),
    "absent organs leave no mark in memories": zeros("no_obj_embed_spatial", absent=True),
    "absent organs have a pointer": zeros("no_obj_ptr", absent=True),
    "a box's corners are swapped": Mutant(swapped_corners),
    "the tracked mask is not clipped before its correction": Mutant(
        patch=lambda: patch.object(propagation, "_CORRECTION_CLAMP", 1000.0), case="three boxes, published loop"
    ),
}


@pytest.fixture(scope="module")
def visible(narrow_config: DictConfig, device: torch.device) -> Both:
    return Both(narrow_config, 9, device, torch.float64, official_features=True)


@pytest.fixture(scope="module")
def sometimes_absent(narrow_config: DictConfig, device: torch.device) -> Both:
    both = Both(narrow_config, 9, device, torch.float64, official_features=True, absent=True)
    presence = [decision.presence > 0 for decision in both.official(CASES["three boxes"]).decisions.values()]
    assert any(presence) and not all(presence)
    return both


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_engine_is_noticed(name: str, visible: Both, sometimes_absent: Both) -> None:
    mutant = MUTANTS[name]
    both, case = (sometimes_absent if mutant.absent else visible), CASES[mutant.case]
    assert both.difference(case) <= FLOAT64_TOLERANCE
    with mutant.patch():
        assert both.difference(case, both.new_engine(mutant.network)) >= MARGIN
