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
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
from sam2.modeling.sam2_utils import get_1d_sine_pe

from medsam2_atlas.base.memory import in_parts
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.medsam2.arithmetic import Arithmetic, in_own_arithmetic
from medsam2_atlas.medsam2.encoder import FeatureStore, SliceFeatures
from medsam2_atlas.medsam2.mask_prompt import prompted_by_mask
from medsam2_atlas.medsam2.prepared import PreparedNetwork
from medsam2_atlas.medsam2.tracks import Memory, Track

_CORRECTION_CLAMP = 32.0
"""The logits of a tracked mask are clipped to ± this value before a correction, as in the official predictor."""


class Propagator:
    """Runs tracks over the slices of one volume.

    Args:
        prepared: the network.
        features: the features of the volume's slices.
        slices: the number of slices of the volume; a short volume limits the number of object pointers.
        batch: the max number of tracks in one batch. With 1, organs run one after the other, so that the memories of only one
            organ are stored at a time.

    Attributes:
        arithmetic: the precision outside the network's own calls: that of the weights.
    """

    def __init__(self, prepared: PreparedNetwork, features: FeatureStore, slices: int, batch: int) -> None:
        self._prepared, self._features, self._batch = prepared, features, batch
        self._net = prepared.network
        self.arithmetic = Arithmetic(prepared.device.type)
        self._pointers = min(slices, int(self._net.max_obj_ptrs_in_encoder))

    @in_own_arithmetic  # so that a caller's autocast changes nothing
    @torch.inference_mode()
    def run(self, tracks: Sequence[Track], progress: Progress = silent) -> None:
        """Runs tracks to their ends; fills each track's `logits` with the result."""
        labels = dict.fromkeys(track.label for track in tracks)
        parts = [[t for t in tracks if t.label == label] for label in labels] if self._batch == 1 else [list(tracks)]
        total, finished = sum(len(track) for track in tracks), 0
        for part in parts:
            self._start(part, progress, finished / total)
            for step in range(max(len(track) for track in part)):
                going = [track for track in part if step < len(track) and not track.ended]
                if not going:
                    break
                for group in self._groups(going, step):
                    self._batch = in_parts(group, self._batch, partial(self._step, step=step))
                    progress("propagation", (finished + sum(t.done(step - 1) for t in part)) / total)
                for track in going:
                    track.end_if_lost(track.slice_at(step))
                progress("propagation", (finished + sum(t.done(step) for t in part)) / total)
                for label in {track.label for track in going}:
                    own = [track for track in part if track.label == label]
                    progress("propagation", sum(t.done(step) for t in own) / sum(len(t) for t in own), label)
            finished += sum(len(track) for track in part)
            for track in part:
                track.passed.clear()
                for memory in (*track.starting.values(), *track.corrected.values()):
                    memory.forget_keys()

    @torch.inference_mode()
    def known(self, z: int, mask: np.ndarray) -> tuple[torch.Tensor, Memory]:
        """Returns the logits `[1, h, w]` and the memory of a slice whose mask is known; see `mask_prompt`.

        Args:
            z: the slice.
            mask: bool `[y, x]`, at image resolution.
        """
        slices = self._features.stack([z])
        logits, pointer, presence = prompted_by_mask(self._prepared, slices, mask)
        return logits[0], Memory(self._remember(slices, logits, presence, prompted=True), pointer)

    def _groups(self, going: Sequence[Track], step: int) -> Iterable[list[Track]]:
        """Yields batches of tracks with the same amount of memory. Slices that start a track need no step."""
        same: dict[tuple[int, int], list[Track]] = defaultdict(list)
        for track in going:
            z = track.slice_at(step)
            if z not in track.starting:
                same[len(self._spatial(track, z)), len(self._ptrs(track, z))].append(track)
        for group in same.values():
            for first in range(0, len(group), self._batch):
                yield group[first : first + self._batch]

    def _start(self, tracks: Sequence[Track], progress: Progress, done: float) -> None:
        """Segments the starting slices from their prompts, without memory. The tracks of an organ share the result."""
        starts: dict[tuple[int, int], list[Track]] = defaultdict(list)
        for track in tracks:
            for z in track.starts:
                starts[track.label, z].append(track)
        same_length: dict[int, list[tuple[int, list[Track]]]] = defaultdict(list)
        for (_, z), sharing in starts.items():
            same_length[len(sharing[0].starts[z].kinds)].append((z, sharing))
        for items in same_length.values():
            progress("propagation", done)
            self._batch = in_parts(items, self._batch, self._start_together)

    def _start_together(self, items: Sequence[tuple[int, list[Track]]]) -> None:
        """Segments starting slices whose prompts have the same number of points, each for the tracks that share it."""
        slices = self._features.stack([z for z, _ in items])
        embedding = slices.levels[-1] + self._net.no_mem_embed.view(1, -1, 1, 1)
        prompts = [sharing[0].starts[z] for z, sharing in items]
        found = self._prepared.decode(embedding, slices.levels, prompts=prompts, starting=True)
        logits = torch.stack([sharing[0].mended(z, found.logits[n]) for n, (z, sharing) in enumerate(items)])
        memory = self._remember(slices, logits, found.presence, prompted=True)
        for n, (z, sharing) in enumerate(items):
            own = Memory(memory[n : n + 1], found.pointer[n : n + 1])
            for track in sharing:
                track.logits[z], track.starting[z] = logits[n], own

    def _step(self, tracks: Sequence[Track], step: int) -> None:
        """Segments the slices of one step, for tracks with the same amount of memory."""
        places = [track.slice_at(step) for track in tracks]
        slices = self._features.stack(places)
        embedding = self._attend(tracks, places, slices)
        found = self._prepared.decode(embedding, slices.levels)
        corrected = [n for n, (track, z) in enumerate(zip(tracks, places, strict=True)) if z in track.corrections]
        for n in corrected:
            self._correct(tracks[n], places[n], embedding[n : n + 1], _part(slices, [n]), found.logits[n : n + 1])
        tracked = [n for n in range(len(tracks)) if n not in corrected]
        for n in tracked:
            tracks[n].logits[places[n]] = found.logits[n]
            tracks[n].passed[places[n]] = Memory(None, found.pointer[n : n + 1])
        kept = [n for n in tracked if tracks[n].read_later(places[n], self._reach)]
        if kept:
            logits, presence = (_rows(tensor, kept) for tensor in (found.logits, found.presence))
            memory = self._remember(_part(slices, kept), logits, presence, prompted=False)
            for row, n in enumerate(kept):
                tracks[n].passed[places[n]].features = memory[row : row + 1]
        for track, z in zip(tracks, places, strict=True):
            self._forget(track, z)

    def _correct(self, track: Track, z: int, embedding: torch.Tensor, slices: SliceFeatures, tracked: torch.Tensor) -> None:
        """Segments a tracked slice again, from its prompt together with the logits of the tracked mask."""
        known = track.previous.get(z)
        previous = (tracked if known is None else known[None]).clamp(-_CORRECTION_CLAMP, _CORRECTION_CLAMP)
        found = self._prepared.decode(embedding, slices.levels, prompts=[track.corrections[z]], previous=previous)
        logits = track.mended(z, found.logits[0])[None]
        memory = self._remember(slices, logits, found.presence, prompted=True)
        track.logits[z] = logits[0]
        track.passed[z] = track.corrected[z] = Memory(memory, found.pointer)

    @property
    def _reach(self) -> int:
        """The distance in slices up to which memories are read."""
        return (int(self._net.num_maskmem) - 1) * int(self._net.memory_temporal_stride_for_eval)

    def _forget(self, track: Track, z: int) -> None:
        """Deletes what is too old for the slices after `z` to attend to: first memories, then pointers."""
        old = z - track.direction * self._reach
        if old in track.passed and old not in track.corrected:
            track.passed[old].forget_features()
        track.passed.pop(z - track.direction * max(self._pointers, self._reach + 1), None)

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
        net, attention = self._net, self._prepared.memory_attention
        row = int(net.num_maskmem) - 1
        each = list(zip(tracks, places, strict=True))
        read = [[memory.read(attention, row - place) for place, memory in self._spatial(track, z)] for track, z in each]
        pointers, positions = self._pointer_memories([self._ptrs(track, z) for track, z in each])
        attended = attention.attend(self._features.first(places), read, pointers, positions)
        return attended.transpose(1, 2).reshape(slices.levels[-1].shape)

    def _pointer_memories(
        self, found: Sequence[Sequence[tuple[int, torch.Tensor]]]
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Returns the pointers of n slices, each `[tokens, c]`, and their position encodings; neither if no slice has any."""
        if not any(found):
            return [], None
        width = int(self._net.mem_dim)
        none = torch.zeros(0, width, device=self._prepared.device, dtype=self._prepared.dtype)
        pointers = [torch.cat([none, *(pointer.view(-1, width) for _, pointer in own)]) for own in found]
        return pointers, self._pointer_positions([[distance for distance, _ in own] for own in found])

    def _pointer_positions(self, distances: Sequence[Sequence[int]]) -> torch.Tensor:
        """Returns the position encodings of the pointers of n slices, `[n, tokens, c]`."""
        net = self._net
        relative = torch.tensor(distances, device=self._prepared.device, dtype=self._prepared.dtype) / (self._pointers - 1)
        encoded = net.obj_ptr_tpos_proj(get_1d_sine_pe(relative, dim=net.hidden_dim))
        result: torch.Tensor = encoded.repeat_interleave(net.hidden_dim // net.mem_dim, dim=1)
        return result

    def _remember(self, slices: SliceFeatures, logits: torch.Tensor, presence: torch.Tensor, prompted: bool) -> torch.Tensor:
        """Returns the memory features of segmented slices, `[n, c, h, w]` bfloat16."""
        return self._stored(self._prepared.remember(slices.levels[-1], logits, presence, prompted))

    @staticmethod
    def _stored(features: torch.Tensor) -> torch.Tensor:
        return features.to(torch.bfloat16)


def _part(slices: SliceFeatures, rows: Sequence[int]) -> SliceFeatures:
    """Returns the features of some rows of a batch."""
    return SliceFeatures(tuple(_rows(level, rows) for level in slices.levels))


def _rows(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Returns some rows of a tensor, in ascending order. On a GPU, an index would have to be copied there first."""
    return tensor if len(rows) == len(tensor) else torch.cat([tensor[n : n + 1] for n in rows])
