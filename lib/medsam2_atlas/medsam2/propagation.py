"""The propagation engine: propagates masks of several organs in parallel from boxed slices through their ranges.

A *track* follows one organ in one direction. All tracks take their steps together, so that tracks with the same amount of
memory form one batch. The semantics are those of the official video predictor as MedSAM2 uses it
(`sam2_video_predictor_legacy` of `sam2` 1.1.0):

- A prompted slice that starts a track is segmented without memory; its mask is binarised for the memory.
- Every other slice attends to the memories of all starting slices and of up to `num_maskmem` − 1 slices before it, and to the
  object pointers of starting slices already passed and of up to 15 slices before it.
- Memories are rounded to bfloat16.

The two loops differ in the effect of a track's second box. In the *symmetric* loop, both boxes start the track. In the
*published* loop, the second box on the way down corrects a slice after it was tracked: the box and the logits of the tracked
mask enter the decoder together. A person's corrections have the same effect.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_utils import get_1d_sine_pe

from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.medsam2.encoder import FeatureStore, SliceFeatures
from medsam2_atlas.medsam2.mask_prompt import prompted_by_mask

_CORRECTION_CLAMP = 32.0
"""The logits of a tracked mask are clipped to ± this value before a correction, as in the official predictor."""


@dataclass(frozen=True)
class Memory:
    """A track's memory of a slice.

    Attributes:
        features: the memory features, `[1, c, h, w]` bfloat16.
        pointer: the object pointer, `[1, c]`.
    """

    features: torch.Tensor
    pointer: torch.Tensor


OFF, ON, BOX_FIRST, BOX_LAST = range(4)
"""Kinds of points in SAM's prompt encoder: outside the organ, on the organ, first and second corner of a box."""


@dataclass(frozen=True)
class Points:
    """A slice's prompt: its points.

    Attributes:
        places: `[n, 2]` (x, y) in pixels of the network's input.
        kinds: `[n]` int32: `OFF`, `ON`, `BOX_FIRST` or `BOX_LAST`.
    """

    places: torch.Tensor
    kinds: torch.Tensor

    def with_more(self, other: Points) -> Points:
        """Returns these points followed by the other points."""
        return Points(torch.cat([self.places, other.places], -2), torch.cat([self.kinds, other.kinds], -1))


Mend = Callable[[int, torch.Tensor], torch.Tensor]


@dataclass
class Track:
    """The propagation of one organ in one direction.

    Attributes:
        label: the organ number.
        start: the first slice.
        end: the last slice.
        direction: +1 (up) or −1 (down).
        starts: the prompts of the slices that start the track.
        corrections: the prompts of slices that are corrected after they were tracked.
        patience: number of successive slices without the organ after which the track ends, once it has passed all prompts.
            None: it ends at `end`.
        min_certainty: a slice also counts as without the organ if the mean logit inside its mask falls below this share of
            that of the starting slices: the network then follows another structure, or is about to.
        previous: logits `[1, h, w]` by corrected slice that enter the decoder with its prompt, instead of the tracked mask's.
        mend: changes the logits `[1, h, w]` of a prompted slice before they enter the memory.
        logits: the result, `[1, h, w]` by slice.
        starting: the memories of the starting slices. A new track that gets them and their logits continues from there.
        corrected: the memories of the corrected slices.
        passed: the memories of the tracked slices.
        ended: whether the track has ended.
    """

    label: int
    start: int
    end: int
    direction: int
    starts: dict[int, Points] = field(default_factory=dict)
    corrections: dict[int, Points] = field(default_factory=dict)
    patience: int | None = None
    min_certainty: float = 0.0
    previous: dict[int, torch.Tensor] = field(default_factory=dict)
    mend: Mend | None = None
    logits: dict[int, torch.Tensor] = field(default_factory=dict)
    starting: dict[int, Memory] = field(default_factory=dict)
    corrected: dict[int, Memory] = field(default_factory=dict)
    passed: dict[int, Memory] = field(default_factory=dict)
    ended: bool = False
    _unseen: int = 0

    @cached_property
    def _starting_certainty(self) -> float:
        """The highest certainty of the starting slices, which are segmented before the first step."""
        return max(_certainty(self.logits[start]) for start in self.starting)

    def __len__(self) -> int:
        return abs(self.end - self.start) + 1

    def slice_at(self, step: int) -> int:
        """Returns the slice of a step; step 0 is the start."""
        return self.start + self.direction * step

    def done(self, step: int) -> int:
        """Returns the number of slices that are finished after a step."""
        return len(self) if self.ended else min(step + 1, len(self))

    def end_if_lost(self, z: int) -> None:
        """Ends the track if slice `z` completes `patience` successive slices without the organ."""
        if self.patience is None:
            return
        self._unseen = 0 if _certainty(self.logits[z]) > self.min_certainty * self._starting_certainty else self._unseen + 1
        prompted = [self.direction * p for p in (*self.starting, *self.corrections)]
        self.ended = self._unseen >= self.patience and self.direction * z >= max(prompted)


def _mended(track: Track, z: int, logits: torch.Tensor) -> torch.Tensor:
    return logits if track.mend is None else track.mend(z, logits)


def _certainty(logits: torch.Tensor) -> float:
    """Returns the mean logit inside a mask; 0 if the mask is empty."""
    inside = logits[logits > 0]
    return float(inside.mean()) if inside.numel() else 0.0


class Propagator:
    """Runs tracks over the slices of one volume.

    Args:
        network: a SAM 2.1 network in evaluation mode.
        features: the features of the volume's slices.
        slices: the number of slices of the volume; a short volume limits the number of object pointers.
        batch: the max number of tracks in one batch.
    """

    def __init__(self, network: Any, features: FeatureStore, slices: int, batch: int) -> None:
        self._net, self._features, self._batch = network, features, batch
        self._pointers = min(slices, int(network.max_obj_ptrs_in_encoder))

    @torch.inference_mode()
    def run(self, tracks: Sequence[Track], progress: Progress = silent) -> None:
        """Runs tracks to their ends; fills each track's `logits` with the result."""
        starts: dict[tuple[int, int], list[Track]] = defaultdict(list)
        for track in tracks:
            for z in track.starts:
                starts[track.label, z].append(track)
        self._start(starts, progress)
        total = sum(len(track) for track in tracks)
        for step in range(max(len(track) for track in tracks)):
            going = [track for track in tracks if step < len(track) and not track.ended]
            if not going:
                break
            groups: dict[tuple[int, int], list[Track]] = defaultdict(list)
            for track in going:
                z = track.slice_at(step)
                if z not in track.starting:
                    groups[len(self._spatial(track, z)), len(self._ptrs(track, z))].append(track)
            for group in groups.values():
                for first in range(0, len(group), self._batch):
                    self._step(group[first : first + self._batch], step)
                    progress("propagation", sum(t.done(step - 1) for t in tracks) / total)
            for track in going:
                track.end_if_lost(track.slice_at(step))
            progress("propagation", sum(t.done(step) for t in tracks) / total)
            for label in {track.label for track in going}:
                own = [track for track in tracks if track.label == label]
                progress("propagation", sum(t.done(step) for t in own) / sum(len(t) for t in own), label)

    @torch.inference_mode()
    def known(self, z: int, mask: np.ndarray) -> tuple[torch.Tensor, Memory]:
        """Returns the logits `[1, h, w]` and the memory of a slice whose mask is known; see `mask_prompt`.

        Args:
            z: the slice.
            mask: bool `[y, x]`, at image resolution.
        """
        slices = self._features.stack([z])
        logits, pointer, presence = prompted_by_mask(self._net, slices, mask)
        return logits[0], Memory(self._remember(slices, logits, presence, prompted=True), pointer)

    def _start(self, starts: dict[tuple[int, int], list[Track]], progress: Progress) -> None:
        """Segments the starting slices from their prompts, without memory. The tracks of an organ share the result."""
        same_length: dict[int, list[tuple[int, list[Track]]]] = defaultdict(list)
        for (_, z), tracks in starts.items():
            same_length[len(tracks[0].starts[z].kinds)].append((z, tracks))
        for items in same_length.values():
            for first in range(0, len(items), self._batch):
                part = items[first : first + self._batch]
                progress("propagation", 0.0)
                slices = self._features.stack([z for z, _ in part])
                embedding = slices.levels[-1] + self._net.no_mem_embed.view(1, -1, 1, 1)
                prompts = [tracks[0].starts[z] for z, tracks in part]
                logits, pointer, presence = self._decode(embedding, slices, prompts=prompts, starting=True)
                logits = torch.stack([_mended(tracks[0], z, logits[n]) for n, (z, tracks) in enumerate(part)])
                memory = self._remember(slices, logits, presence, prompted=True)
                for n, (z, tracks) in enumerate(part):
                    for track in tracks:
                        track.logits[z] = logits[n]
                        track.starting[z] = Memory(memory[n : n + 1], pointer[n : n + 1])

    def _step(self, tracks: Sequence[Track], step: int) -> None:
        """Segments the slices of one step, for tracks with the same amount of memory."""
        places = [track.slice_at(step) for track in tracks]
        slices = self._features.stack(places)
        embedding = self._attend(tracks, places, slices)
        logits, pointer, presence = self._decode(embedding, slices)
        memory = self._remember(slices, logits, presence, prompted=False)
        for n, (track, z) in enumerate(zip(tracks, places, strict=True)):
            if z in track.corrections:
                one = SliceFeatures(tuple(level[n : n + 1] for level in slices.levels))
                self._correct(track, z, embedding[n : n + 1], one, logits[n : n + 1])
            else:
                track.logits[z] = logits[n]
                track.passed[z] = Memory(memory[n : n + 1], pointer[n : n + 1])
            self._forget(track, z)

    def _correct(self, track: Track, z: int, embedding: torch.Tensor, slices: SliceFeatures, tracked: torch.Tensor) -> None:
        """Segments a tracked slice again, from its prompt together with the logits of the tracked mask."""
        known = track.previous.get(z)
        previous = (tracked if known is None else known[None]).clamp(-_CORRECTION_CLAMP, _CORRECTION_CLAMP)
        logits, pointer, presence = self._decode(embedding, slices, prompts=[track.corrections[z]], previous=previous)
        logits = _mended(track, z, logits[0])[None]
        memory = self._remember(slices, logits, presence, prompted=True)
        track.logits[z] = logits[0]
        track.passed[z] = track.corrected[z] = Memory(memory, pointer)

    def _forget(self, track: Track, z: int) -> None:
        """Deletes the memory that is too old for the slices after `z` to attend to."""
        oldest = max(self._pointers, int(self._net.num_maskmem) * int(self._net.memory_temporal_stride_for_eval))
        track.passed.pop(z - track.direction * oldest, None)

    def _spatial(self, track: Track, z: int) -> list[tuple[int, Memory]]:
        """Returns the memories to attend to, with their temporal positions: 0 for starting slices, else from 1 (oldest) on."""
        found = [(0, memory) for memory in track.starting.values()]
        stride = int(self._net.memory_temporal_stride_for_eval)
        for place in range(1, int(self._net.num_maskmem)):
            distance = int(self._net.num_maskmem) - place
            if distance == 1:
                earlier = z - track.direction
            else:  # on the grid of every `stride`-th slice, counted in the direction of travel
                nearest = ((track.direction * z - 2) // stride) * stride - (distance - 2) * stride
                earlier = track.direction * nearest
            if earlier in track.passed:
                found.append((place, track.passed[earlier]))
        return found

    def _ptrs(self, track: Track, z: int) -> list[tuple[int, torch.Tensor]]:
        """Returns the object pointers to attend to, with their distances in slices."""
        found = []
        for start, memory in track.starting.items():
            distance = (z - start) * track.direction
            if distance >= 0 or not self._net.only_obj_ptrs_in_the_past_for_eval:
                found.append((distance, memory.pointer))
        for distance in range(1, self._pointers):
            earlier = z - track.direction * distance
            if earlier in track.passed:
                found.append((distance, track.passed[earlier].pointer))
        return found

    def _attend(self, tracks: Sequence[Track], places: Sequence[int], slices: SliceFeatures) -> torch.Tensor:
        """Returns the slices' features conditioned on the tracks' memories, `[n, c, h, w]`."""
        net = self._net
        memories, positions, pointer_tokens = [], [], 0
        for track, z in zip(tracks, places, strict=True):
            tokens, token_positions = [], []
            for place, memory in self._spatial(track, z):
                tokens.append(memory.features.float().flatten(2).permute(2, 0, 1))
                token_positions.append(self._memory_position() + net.maskmem_tpos_enc[net.num_maskmem - place - 1])
            pointers = self._ptrs(track, z)
            if pointers and net.use_obj_ptrs_in_encoder:
                split = net.hidden_dim // net.mem_dim
                stacked = torch.stack([pointer for _, pointer in pointers])  # [p, 1, c]
                tokens.append(stacked.reshape(-1, 1, split, net.mem_dim).permute(0, 2, 1, 3).flatten(0, 1))
                distance = torch.tensor([d for d, _ in pointers], device=stacked.device) / (self._pointers - 1)
                encoded = net.obj_ptr_tpos_proj(get_1d_sine_pe(distance, dim=net.hidden_dim))
                token_positions.append(encoded[:, None].repeat_interleave(split, dim=0))
                pointer_tokens = len(pointers) * split
            memories.append(torch.cat(tokens))
            positions.append(torch.cat(token_positions))
        top = slices.levels[-1]
        assert self._features.position is not None
        attended = net.memory_attention(
            curr=[top.flatten(2).permute(2, 0, 1)],
            curr_pos=[self._features.position.expand_as(top).flatten(2).permute(2, 0, 1)],
            memory=torch.cat(memories, 1),
            memory_pos=torch.cat(positions, 1),
            num_obj_ptr_tokens=pointer_tokens,
        )
        result: torch.Tensor = attended.permute(1, 2, 0).view(top.shape)
        return result

    def _memory_position(self) -> torch.Tensor:
        """Returns the spatial position encoding of a memory, `[h·w, 1, c]`."""
        side = self._net.sam_image_embedding_size
        blank = torch.zeros(1, self._net.mem_dim, side, side, device=self._net.device)
        position: torch.Tensor = self._net.memory_encoder.position_encoding(blank)
        return position.flatten(2).permute(2, 0, 1)

    def _decode(
        self,
        embedding: torch.Tensor,
        slices: SliceFeatures,
        *,
        prompts: Sequence[Points] = (),
        previous: torch.Tensor | None = None,
        starting: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns mask logits `[n, 1, h, w]` at a quarter of the network's resolution, object pointers and presence logits.

        `prompts` is empty, or has one prompt per slice, all with the same number of points.
        """
        points = None
        if prompts:
            places, kinds = torch.stack([p.places for p in prompts]), torch.stack([p.kinds for p in prompts])
            points = {"point_coords": places, "point_labels": kinds}
        fine = list(slices.levels[:-1]) or None
        _, _, _, logits, _, pointer, presence = self._net._forward_sam_heads(
            backbone_features=embedding,
            point_inputs=points,
            mask_inputs=previous,
            high_res_features=fine,
            multimask_output=self._net._use_multimask(starting, points),
        )
        return logits, pointer, presence

    def _remember(self, slices: SliceFeatures, logits: torch.Tensor, presence: torch.Tensor, prompted: bool) -> torch.Tensor:
        """Returns the memory features of segmented slices, `[n, c, h, w]` bfloat16."""
        side = self._net.image_size
        top = slices.levels[-1]
        features, _ = self._net._encode_new_memory(
            current_vision_feats=[top.flatten(2).permute(2, 0, 1)],
            feat_sizes=[top.shape[-2:]],
            pred_masks_high_res=F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False),
            object_score_logits=presence,
            is_mask_from_pts=prompted,
        )
        return self._stored(features)

    @staticmethod
    def _stored(features: torch.Tensor) -> torch.Tensor:
        return features.to(torch.bfloat16)
