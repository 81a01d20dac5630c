"""Each part of the prepared network gives the results of sam2's own module; a fault shows in one part first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from omegaconf import DictConfig
from sam2.modeling.sam2_base import SAM2Base

from legacy import seeded_state
from medsam2_atlas.medsam2 import build_network
from medsam2_atlas.medsam2.arithmetic import Arithmetic
from medsam2_atlas.medsam2.batched_attention import BatchedMemoryAttention
from medsam2_atlas.medsam2.memory_attention import MemoryAttention, Read
from medsam2_atlas.medsam2.prepared import PreparedNetwork
from medsam2_atlas.medsam2.tracks import BOX_FIRST, BOX_LAST, OFF, ON, Points
from precision import computing_in

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
"""Max error, relative to the largest value."""
SLICES, SIDE, POINTERS = 2, 8, 3


class Parts:
    """A seeded narrow network, the same network prepared, and random inputs of their parts.

    Args:
        config: the network's configuration.
        dtype: the precision.
    """

    def __init__(self, config: DictConfig, dtype: torch.dtype) -> None:
        network = build_network(config)
        network.load_state_dict(seeded_state(config))
        self.network: SAM2Base = network.double() if dtype == torch.float64 else network
        self.prepared = PreparedNetwork(self.network)
        self._draw, self._dtype = torch.Generator().manual_seed(0), dtype

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._draw, dtype=torch.float64).to(self._dtype)

    def levels(self) -> list[torch.Tensor]:
        """Returns random features of slices, from fine to coarse."""
        return [self.random(SLICES, c, SIDE * n, SIDE * n) for c, n in ((32, 4), (64, 2), (256, 1))]

    def assert_same(self, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        assert ours.dtype == theirs.dtype == self._dtype
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().max() / theirs.abs().max()) <= TOLERANCE[self._dtype]
        assert theirs.std() > 0


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def parts(narrow_config: DictConfig, request: pytest.FixtureRequest) -> Iterator[Parts]:
    with computing_in(request.param), torch.inference_mode():
        yield Parts(narrow_config, request.param)


def test_the_encoder_gives_the_features_of_sam2(parts: Parts) -> None:
    images = parts.random(SLICES, 3, 128, 128)
    theirs = parts.network.forward_image(images)
    for ours, level in zip(parts.prepared.encode(images), theirs["backbone_fpn"], strict=True):
        parts.assert_same(ours, level)
    parts.assert_same(parts.prepared.position, theirs["vision_pos_enc"][-1][:1])


PROMPTS: dict[str, list[int]] = {
    "no prompt": [],
    "a point": [ON],
    "points": [ON, OFF],
    "a box": [BOX_FIRST, BOX_LAST],
    "a box and a point": [BOX_FIRST, BOX_LAST, OFF],
}


@pytest.mark.parametrize("corrected", [False, True], ids=["new", "corrected"])
@pytest.mark.parametrize("name", PROMPTS)
def test_the_decoder_chooses_the_masks_of_sam2(name: str, corrected: bool, parts: Parts) -> None:
    net, levels, kinds = parts.network, parts.levels(), PROMPTS[name]
    places = 64 + 20 * parts.random(SLICES, len(kinds), 2)
    labels = torch.tensor([kinds] * SLICES, dtype=torch.int32)
    previous = 10 * parts.random(SLICES, 1, 4 * SIDE, 4 * SIDE) if corrected else None
    prompts = [Points(*own) for own in zip(places, labels, strict=True)] if kinds else []
    ours = parts.prepared.decode(levels[-1], levels, prompts=prompts, previous=previous, starting=not corrected)
    points = {"point_coords": places, "point_labels": labels} if kinds else None
    *_, logits, _, pointer, presence = net._forward_sam_heads(
        backbone_features=levels[-1],
        point_inputs=points,
        mask_inputs=previous,
        high_res_features=levels[:-1],
        multimask_output=net._use_multimask(not corrected, points),
    )
    for found, expected in ((ours.logits, logits), (ours.pointer, pointer), (ours.presence, presence)):
        parts.assert_same(found, expected)


@pytest.mark.parametrize("prompted", [False, True], ids=["tracked", "prompted"])
def test_memories_are_those_of_sam2(prompted: bool, parts: Parts) -> None:
    top, logits = parts.random(SLICES, 256, SIDE, SIDE), 5 * parts.random(SLICES, 1, 4 * SIDE, 4 * SIDE)
    presence = torch.tensor([[1.0], [-1.0]], dtype=top.dtype)
    theirs, _ = parts.network._encode_new_memory(
        current_vision_feats=[tokens(top)],
        feat_sizes=[(SIDE, SIDE)],
        pred_masks_high_res=torch.nn.functional.interpolate(logits, size=(128, 128), mode="bilinear", align_corners=False),
        object_score_logits=presence,
        is_mask_from_pts=prompted,
    )
    parts.assert_same(parts.prepared.remember(top, logits, presence, prompted), theirs)


@pytest.mark.parametrize("batched", [False, True], ids=["CPU", "GPU"])
@pytest.mark.parametrize("rows", [[6], [6, 0, 3], [6, 6, 5, 4, 3, 2, 1, 0]], ids=lambda rows: f"{len(rows)} memories")
def test_memory_attention_is_that_of_sam2(rows: list[int], batched: bool, parts: Parts) -> None:
    net, prepared = parts.network, parts.prepared
    attention = BatchedMemoryAttention(prepared.network, Arithmetic("cpu")) if batched else prepared.memory_attention
    top = parts.random(SLICES, 256, SIDE, SIDE)
    memories = parts.random(SLICES, len(rows), SIDE * SIDE, 64)
    pointers, positions = parts.random(SLICES, 4 * POINTERS, 64), parts.random(SLICES, 4 * POINTERS, 64)
    ours = attend(attention, prepared, top, memories, rows, pointers, positions)
    place = tokens(net.memory_encoder.position_encoding(top[:1, :64]).to(top.dtype))
    theirs = net.memory_attention(
        curr=[tokens(top)],
        curr_pos=[tokens(prepared.position.expand_as(top))],
        memory=torch.cat([memories.flatten(1, 2), pointers], 1).transpose(0, 1),
        memory_pos=torch.cat(
            [*((place + net.maskmem_tpos_enc[row]).expand(-1, SLICES, -1) for row in rows), positions.transpose(0, 1)]
        ),
        num_obj_ptr_tokens=4 * POINTERS,
    )
    parts.assert_same(ours, theirs.transpose(0, 1))


def test_slices_with_different_numbers_of_memories_are_attended_together(parts: Parts) -> None:
    prepared = parts.prepared
    attention = BatchedMemoryAttention(prepared.network, Arithmetic("cpu"))
    top, memories = parts.random(SLICES, 256, SIDE, SIDE), parts.random(SLICES, 3, SIDE * SIDE, 64)
    pointers, positions = parts.random(SLICES, 4 * POINTERS, 64), parts.random(SLICES, 4 * POINTERS, 64)
    amounts = (([6, 1, 0], 4 * POINTERS), ([6], 4))
    alone, read = [], []
    for n, (rows, count) in enumerate(amounts):
        own = slice(n, n + 1)
        alone.append(
            attend(
                attention, prepared, top[own], memories[own, : len(rows)], rows, pointers[own, :count], positions[own, :count]
            )
        )
        read.append([Read(memory, attention.keys(memory), row) for memory, row in zip(memories[n], rows, strict=False)])
    first = attention.first(top, prepared.position)
    together = attention.attend(first, read, [pointers[n, :count] for n, (_, count) in enumerate(amounts)], positions)
    parts.assert_same(together, torch.cat(alone))


def tokens(maps: torch.Tensor) -> torch.Tensor:
    """Returns feature maps `[n, c, h, w]` in sam2's order of tokens, `[h·w, n, c]`."""
    return maps.flatten(2).permute(2, 0, 1)


def attend(
    attention: MemoryAttention,
    prepared: PreparedNetwork,
    top: torch.Tensor,
    memories: torch.Tensor,
    rows: list[int],
    pointers: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """Returns the features of slices that all read memories in the same temporal positions."""
    read = [[Read(memory, attention.keys(memory), row) for memory, row in zip(own, rows, strict=True)] for own in memories]
    return attention.attend(attention.first(top, prepared.position), read, list(pointers), positions)
