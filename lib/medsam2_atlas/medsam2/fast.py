"""Propagation in fast mode on the processor: less work far from the organ. Prompts, steps and memories are those of exact mode.

For each tracked slice,

- the tokens around the mask of the slice before read the memories of starting slices and of the newest tracked slices in full
  detail; older memories, and all memories for the other tokens, are read coarsely (`near_attention`);
- the memory encoder runs around the mask. The rest of a memory is that of an empty mask, which all organs share.

Features outside that window are thus approximate, but none are left out: a network that sees only a part of the slice lets
organs leak into their surroundings. The mask decoder sees the whole slice for the same reason. Starting and corrected slices
are computed as in exact mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from medsam2_atlas.medsam2.config import medsam2_config
from medsam2_atlas.medsam2.encoder import FeatureStore, SliceFeatures
from medsam2_atlas.medsam2.near_attention import NearAttention
from medsam2_atlas.medsam2.prepared import PreparedNetwork
from medsam2_atlas.medsam2.propagation import Propagator
from medsam2_atlas.medsam2.tracks import Track
from medsam2_atlas.medsam2.windows import Pooling, Window

_NOTHING = Window(0, 0, 0, 0)
_EMPTY = -10.0
"""The logit of an empty mask; SAM 2 uses it for masks that persons give."""
_MAX_BACKGROUNDS = 64
"""Max number of slices whose memory of an empty mask is stored; organs that are near each other along z share them."""


class FastPropagator(Propagator):
    """Runs tracks over the slices of one volume in fast mode on the processor, one track at a time; see `Propagator`.

    Args:
        prepared: the network.
        features: the features of the volume's slices.
        slices: the number of slices of the volume.
    """

    def __init__(self, prepared: PreparedNetwork, features: FeatureStore, slices: int) -> None:
        super().__init__(prepared, features, slices, 1)
        assert isinstance(prepared.memory_attention, NearAttention)
        self._attention = prepared.memory_attention
        self._config = medsam2_config()
        self._side = prepared.side
        self._backgrounds: dict[int, torch.Tensor] = {}
        self._place = 0  # the slice of the current step

    def _step(self, tracks: Sequence[Track], step: int) -> None:
        self._place = tracks[0].slice_at(step)
        super()._step(tracks, step)

    def _attend(self, tracks: Sequence[Track], places: Sequence[int], slices: SliceFeatures) -> torch.Tensor:
        """Returns the slice's features conditioned on the track's memories, `[1, c, h, w]`."""
        (track,), (z,) = tracks, places
        window = self._near(track, z)
        if window == Window.whole(self._side):
            return super()._attend(tracks, places, slices)
        net, attention = self._net, self._attention
        row, found = int(net.num_maskmem) - 1, self._spatial(track, z)
        of = {id(memory): y for group in (track.starting, track.passed) for y, memory in group.items()}
        oldest = int(net.num_maskmem) - self._config.fast_memories
        pooled = [
            memory.read_pooled(attention, row - place, partial(self._pooling, track, of[id(memory)])) for place, memory in found
        ]
        read = [
            memory.read(attention, row - place) if place == 0 or place >= oldest else coarse
            for (place, memory), coarse in zip(found, pooled, strict=True)
        ]
        known, positions = self._pointer_memories([self._ptrs(track, z)])
        pointers = known[0] if known else None
        near = window.tokens(self._side).to(slices.levels[-1].device)
        attended = attention.attend_near(self._features.first([z]), near, read, pooled, pointers, positions)
        return attended.transpose(1, 2).reshape(slices.levels[-1].shape)

    def _remember(self, slices: SliceFeatures, logits: torch.Tensor, presence: torch.Tensor, prompted: bool) -> torch.Tensor:
        """Returns the memory features of a slice, `[1, c, h, w]` bfloat16."""
        around = Window.around(logits[0], self._side) or _NOTHING
        window = self._surroundings(around)
        if prompted or window == Window.whole(self._side):
            return super()._remember(slices, logits, presence, prompted)
        top = slices.levels[-1]
        features = self._prepared.marked_absent(self._background(top).clone(), presence)
        if window != _NOTHING:
            scale = logits.shape[-1] // self._side
            near = self._prepared.remember(window.crop(top), window.crop(logits, scale), presence, prompted=False)
            window.crop(features)[:] = near
            self._net.memory_encoder.position_encoding.cache.clear()  # it would keep a table for each size of window
        return self._stored(features)

    def _background(self, top: torch.Tensor) -> torch.Tensor:
        """Returns the memory features of a slice without the organ, before the mark of absent organs."""
        z = self._place
        if z not in self._backgrounds:
            if len(self._backgrounds) >= _MAX_BACKGROUNDS:
                self._backgrounds.pop(next(iter(self._backgrounds)))
            size = int(self._net.image_size) // 4
            empty = top.new_full((1, 1, size, size), _EMPTY)
            self._backgrounds[z] = self._prepared.remember(top, empty, top.new_ones(1, 1), prompted=False)
        return self._backgrounds[z]

    def _near(self, track: Track, z: int) -> Window:
        """Returns the window of the tokens that read memories in full detail: around the nearest mask before."""
        whole = Window.whole(self._side)
        if z in track.corrections:
            return whole
        candidates = (z - track.direction, *sorted(track.starting, key=lambda start: abs(start - z)))
        around = (Window.around(track.logits[y], self._side) for y in candidates if y in track.logits)
        return self._surroundings(next((window for window in around if window is not None), whole))

    def _surroundings(self, window: Window) -> Window:
        """Returns a window with the margin of `fast_margin`; `_NOTHING` stays as it is."""
        return window if window == _NOTHING else window.grown(round(self._config.fast_margin * self._side), self._side)

    def _pooling(self, track: Track, y: int) -> Pooling:
        """Returns which tokens of the memory of slice y are averaged: those outside the surroundings of its mask."""
        around = Window.around(track.logits[y], self._side)
        kept = around.grown(round(self._config.fast_key_margin * self._side), self._side) if around is not None else _NOTHING
        return Pooling.outside(kept, self._side, self._block, torch.device(self._prepared.device))

    @property
    def _block(self) -> int:
        """The number of rows and columns of averaged blocks: the largest that divides a slice's rows."""
        return next(block for block in range(self._config.fast_block, 0, -1) if self._side % block == 0)
