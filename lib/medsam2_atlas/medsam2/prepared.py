"""A network prepared for inference: the parts of SAM 2.1 as the engine calls them, without repeated or unused work.

The weights are those of the network; the results are equal up to rounding. Compared with sam2's own calls,

- linear layers are the engine's (`linear`), and the memory attention too (`memory_attention`);
- two successive 1 x 1 convolutions of the two finer levels are one, and position encodings are computed once;
- only the chosen mask of the decoder's candidates is enlarged, and only if its memory is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import NO_OBJ_SCORE
from torch import nn

from medsam2_atlas.base.errors import WeightsError
from medsam2_atlas.medsam2.arithmetic import Arithmetic, halve_weights, in_own_arithmetic
from medsam2_atlas.medsam2.batched_attention import BatchedMemoryAttention
from medsam2_atlas.medsam2.compiled import compile_parts
from medsam2_atlas.medsam2.config import medsam2_config
from medsam2_atlas.medsam2.linear import Linear, replace_linear_layers
from medsam2_atlas.medsam2.near_attention import NearAttention
from medsam2_atlas.medsam2.tracks import Points

_MASK_STRIDE = 4
"""Pixels of the network's input per row of mask logits."""
_NO_POINT = -1
"""Kind of point that stands for no point in SAM's prompt encoder."""


@dataclass(frozen=True)
class Decoded:
    """The decoder's result for n slices.

    Attributes:
        logits: the logits of the chosen mask, `[n, 1, h, w]`, at a quarter of the network's resolution.
        pointer: the object pointer, `[n, c]`.
        presence: the logit of the organ's presence, `[n, 1]`.
    """

    logits: torch.Tensor
    pointer: torch.Tensor
    presence: torch.Tensor


class PreparedNetwork:
    """A SAM 2.1 network prepared for inference on its device.

    Args:
        network: the network (`SAM2Base`) in evaluation mode. It stays as it is; the weights are shared.
        half: the 16-bit format of matrix products and convolutions, for which their weights are copied; None by default: all
            has the weights' precision.

    Attributes:
        network: the prepared copy. The engine reads sizes and flags from it.
        arithmetic: the precision of `encode`, `decode`, `remember` and the memory attention.
        memory_attention: the memory attention; on a GPU, it takes slices with different amounts of memory together.
        position: the position encoding of the coarsest features, `[1, c, h, w]`.

    Raises:
        WeightsError: if the network's structure is not that of SAM 2.1.
    """

    @torch.inference_mode()
    def __init__(self, network: Any, half: torch.dtype | None = None) -> None:
        _check(network)
        shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        self.network = copy.deepcopy(network, shared)
        self._like = next(self.network.parameters())
        self.arithmetic = Arithmetic(self.device.type, half)
        on_gpu = self.device.type != "cpu"
        self.memory_attention = (
            BatchedMemoryAttention(self.network, self.arithmetic) if on_gpu else NearAttention(self.network, half)
        )
        self.side = int(self.network.sam_image_embedding_size)
        parts = [self.network.image_encoder, self.network.memory_encoder, self.network.sam_mask_decoder]
        for part in parts:
            replace_linear_layers(part)
        # The memory attention has its own table of positions. The encoder's would be computed for windows of every size.
        self.network.memory_encoder.position_encoding = nn.Identity()
        trunk, neck, decoder = self.network.image_encoder.trunk, self.network.image_encoder.neck, self.network.sam_mask_decoder
        cells = int(self.network.image_size) // trunk.patch_embed.proj.stride[0]
        table = trunk._get_pos_embed((cells, cells))
        trunk._get_pos_embed = lambda _: table
        self._levels = [_folded(outer, neck.convs[-1 - n].conv) for n, outer in enumerate((decoder.conv_s0, decoder.conv_s1))]
        self._levels += [_as_linear(neck.convs[n].conv) for n in (1, 0)]
        if half is not None:
            for part in (*parts, self.network.obj_ptr_proj, nn.ModuleList(self._levels)):
                halve_weights(part, half)
        top = torch.zeros(1, neck.d_model, self.side, self.side, device=self.device, dtype=self.dtype)
        self.position = neck.position_encoding(top).to(self.dtype)
        self._dense_position = self.network.sam_prompt_encoder.get_dense_pe()
        no_point = torch.full((1, 1), _NO_POINT, dtype=torch.int32, device=self.device)
        self._no_prompt = self._embedded(torch.zeros(1, 1, 2, device=self.device), no_point, None)
        if on_gpu and medsam2_config().compile:
            compile_parts(self.network)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._like.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return self._like.dtype

    @in_own_arithmetic
    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the features of n slices, from fine to coarse: three tensors `[n, c, h, w]`.

        Args:
            images: `[n, 3, size, size]`, as `preprocessing.to_network` gives them.
        """
        fine, middle, coarse, coarsest = (
            level(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            for level, maps in zip(self._levels, self.network.image_encoder.trunk(images.to(self.dtype)), strict=True)
        )
        top = coarse + F.interpolate(coarsest, scale_factor=2.0, mode="nearest")
        return fine.contiguous(), middle.contiguous(), top.contiguous()

    @in_own_arithmetic
    def decode(
        self,
        embedding: torch.Tensor,
        levels: Sequence[torch.Tensor],
        *,
        prompts: Sequence[Points] = (),
        previous: torch.Tensor | None = None,
        starting: bool = False,
    ) -> Decoded:
        """Returns the masks of n slices.

        Args:
            embedding: the slices' coarsest features, conditioned on memories, `[n, c, h, w]`.
            levels: the slices' features, from fine to coarse.
            prompts: the prompts of the slices, all with the same number of points; empty if there are none.
            previous: the mask logits that prompt the decoder, `[n, 1, h, w]` at a quarter of the network's resolution.
            starting: whether the slices start a track.
        """
        net, count = self.network, len(embedding)
        points = None
        sparse, dense = self._no_prompt
        if prompts or previous is not None:
            places = torch.stack([p.places for p in prompts]) if prompts else torch.zeros(count, 1, 2, device=self.device)
            kinds = (
                torch.stack([p.kinds for p in prompts])
                if prompts
                else torch.full((count, 1), _NO_POINT, dtype=torch.int32, device=self.device)
            )
            points = {"point_coords": places, "point_labels": kinds} if prompts else None
            sparse, dense = self._embedded(places, kinds, previous)
        several = net._use_multimask(starting, points)
        masks, scores, tokens, presence = net.sam_mask_decoder(
            image_embeddings=embedding,
            image_pe=self._dense_position,
            sparse_prompt_embeddings=sparse.expand(count, -1, -1),
            dense_prompt_embeddings=dense.expand(count, -1, -1, -1),
            multimask_output=several,
            repeat_image=False,
            high_res_features=list(levels[:-1]),
        )
        token = tokens[:, 0]
        if several:
            best, rows = scores.argmax(-1), torch.arange(count, device=scores.device)
            masks = masks[rows, best][:, None]
            token = tokens[rows, best] if tokens.shape[1] > 1 else token
        pointer = net.obj_ptr_proj(token)
        if net.pred_obj_scores:
            present = presence > 0
            masks = torch.where(present[:, None, None], masks, NO_OBJ_SCORE)
            pointer = self._pointer(pointer, presence.sigmoid() if net.soft_no_obj_ptr else present.to(pointer.dtype))
        return Decoded(*(found.to(self.dtype) for found in (masks, pointer, presence)))

    @in_own_arithmetic
    def remember(self, top: torch.Tensor, logits: torch.Tensor, presence: torch.Tensor, prompted: bool) -> torch.Tensor:
        """Returns the memory features of n segmented slices, `[n, c, h, w]`; also for the same window of features and masks.

        Args:
            top: the slices' coarsest features, `[n, c, h, w]`.
            logits: the masks' logits, `[n, 1, h, w]` at a quarter of the network's resolution.
            presence: the logits of the organ's presence, `[n, 1]`.
            prompted: whether the masks come from prompts; they are then binarised.
        """
        net = self.network
        size = [_MASK_STRIDE * side for side in logits.shape[-2:]]
        mask = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        mask = (mask > 0).to(mask.dtype) if prompted and net.binarize_mask_from_pts_for_mem_enc else mask.sigmoid()
        mask = mask * net.sigmoid_scale_for_mem_enc + net.sigmoid_bias_for_mem_enc
        features: torch.Tensor = net.memory_encoder(top, mask, skip_mask_sigmoid=True)["vision_features"]
        return self.marked_absent(features, presence)

    def marked_absent(self, features: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
        """Returns memory features `[n, c, h, w]` with the mark of absent organs where the logit of presence is not positive."""
        mark = self.network.no_obj_embed_spatial
        if mark is None:
            return features
        absent = 1 - (presence > 0).to(features.dtype)
        return features + absent[..., None, None] * mark[..., None, None]

    def _pointer(self, pointer: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Replaces the pointers of absent organs."""
        net = self.network
        kept = present * pointer if net.fixed_no_obj_ptr else pointer
        result: torch.Tensor = kept + (1 - present) * net.no_obj_ptr
        return result

    def _embedded(
        self, places: torch.Tensor, kinds: torch.Tensor, masks: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the sparse and dense embeddings of prompts. In 16 bits, the places of points would be off by some pixels."""
        with Arithmetic(self.device.type)():
            sparse, dense = self.network.sam_prompt_encoder(points=(places, kinds), boxes=None, masks=masks)
        return sparse, dense


def _folded(outer: nn.Conv2d, inner: nn.Conv2d) -> Linear:
    """Returns the linear layer outer(inner(x)) of two 1 x 1 convolutions; the factors are multiplied in float64."""
    assert outer.bias is not None and inner.bias is not None
    a, b = (conv.weight[:, :, 0, 0].double() for conv in (outer, inner))
    folded, shift = a @ b, a @ inner.bias.double() + outer.bias.double()
    return Linear(folded.to(outer.weight.dtype), shift.to(outer.weight.dtype))


def _as_linear(conv: nn.Conv2d) -> Linear:
    """Returns a 1 x 1 convolution as a linear layer."""
    assert conv.bias is not None
    return Linear(conv.weight[:, :, 0, 0], conv.bias)


def _check(network: Any) -> None:
    """Raises a WeightsError if a network is not built as SAM 2.1, which the folded weights rely on."""
    neck, encoder = network.image_encoder.neck, network.image_encoder
    usual = network.use_high_res_features_in_sam and network.directly_add_no_mem_embed
    usual = usual and not network.non_overlap_masks_for_mem_enc
    usual = usual and encoder.scalp == 1 and len(neck.convs) == 4 and neck.fpn_top_down_levels == [2, 3]
    usual = usual and neck.fuse_type == "sum" and neck.fpn_interp_model == "nearest" and network.use_obj_ptrs_in_encoder
    usual = usual and all(conv.conv.kernel_size == (1, 1) for conv in neck.convs)
    if not usual:
        raise WeightsError(
            "network configuration",
            "has a structure that is not that of SAM 2.1.",
            "Change only sizes in a configuration of configs/medsam2/.",
        )
