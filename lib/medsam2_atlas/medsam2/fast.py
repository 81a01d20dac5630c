"""Fast mode on the processor: computes only the surroundings of the previous mask, with fewer and coarser memories.

For each tracked slice:

- The memory attention's queries and the decoder are limited to a window around the mask of the slice before.
- The memories of the starting slices and of the newest tracked slices are read. Outside the surroundings of their masks, blocks
  of tokens are averaged, so that the organ is still compared with the whole background.
- The memory encoder runs in the same window. The rest of the memory is that of an empty mask, which all organs share.

Logits outside a window are `OUTSIDE`. Starting and corrected slices are computed as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medsam2_atlas.medsam2.encoder import FeatureStore, SliceFeatures
from medsam2_atlas.medsam2.prepared import PreparedNetwork
from medsam2_atlas.medsam2.propagation import Propagator
from medsam2_atlas.medsam2.tracks import BOX_FIRST, BOX_LAST, Memory, Track
from medsam2_atlas.medsam2.windows import Pooling, Window

OUTSIDE = -10.0


@dataclass(frozen=True)
class Opt:
    margin: float = 9 / 32
    key_margin: float = 3 / 32
    block: int = 2
    newest: int = 3
    reach: float = 0.25
    stale: bool = False
    memwin: bool = True
    near: int = 3


class FastPropagator(Propagator):
    def __init__(self, prepared: PreparedNetwork, features: FeatureStore, slices: int, opt: Opt = Opt()) -> None:
        super().__init__(prepared, features, slices, 1)
        self.opt = opt
        self.side = prepared.side
        self._backgrounds: dict[int, torch.Tensor] = {}
        self.stats: list[tuple[int, int]] = []

    def _n(self, share: float) -> int:
        return round(share * self.side)

    def _step(self, tracks: Sequence[Track], step: int) -> None:
        for track in tracks:
            self._one(track, track.slice_at(step))

    def _window(self, track: Track, z: int) -> Window:
        side, opt = self.side, self.opt
        whole = Window.whole(side)
        if z in track.corrections or opt.margin >= 1:
            return whole
        before = [z - track.direction, *sorted(track.starting, key=lambda s: abs(s - z))]
        found = next((w for y in before if (w := Window.around(track.logits[y], side)) is not None), None)
        if found is None:
            return whole
        for s in track.starting:
            if abs(s - z) <= opt.near and (w := Window.around(track.logits[s], side)) is not None:
                found = found.united(w)
        hull = self._hull(track)
        if hull is not None:
            found = found.within(hull.grown(self._n(opt.reach), side))
        return found.grown(self._n(opt.margin), side)

    def _hull(self, track: Track) -> Window | None:
        hull = None
        scale = self._net.image_size / self.side
        for s in track.starting:
            p = track.starts.get(s)
            if p is None or not {BOX_FIRST, BOX_LAST} <= set(p.kinds.tolist()):
                return None
            a = p.places[p.kinds == BOX_FIRST][0].tolist()
            b = p.places[p.kinds == BOX_LAST][0].tolist()
            c = lambda v: min(self.side - 1, max(0, int(v / scale)))
            w = Window(c(a[1]), c(b[1]) + 1, c(a[0]), c(b[0]) + 1)
            hull = w if hull is None else hull.united(w)
        return hull

    def _one(self, track: Track, z: int) -> None:
        slices = self._features.stack([z])
        window = self._window(track, z)
        side = self.side
        whole = window.shape == (side, side)
        embedding = self._attend_in(track, z, window)
        scales = [level.shape[-1] // side for level in slices.levels]
        levels = [window.crop(level, s) for level, s in zip(slices.levels, scales)]
        found = self._prepared.decode(embedding, levels, window=None if whole else window)
        if z in track.corrections:
            self._correct(track, z, embedding, slices, found.logits)
            self._forget(track, z)
            return
        mask_scale = found.logits.shape[-1] // window.shape[1]
        logits = found.logits.new_full((1, 1, side * mask_scale, side * mask_scale), OUTSIDE)
        window.crop(logits, mask_scale)[:] = found.logits
        track.logits[z] = logits[0]
        track.passed[z] = Memory(None, found.pointer)
        if track.read_later(z, self._reach):
            if whole or not self.opt.memwin:
                track.passed[z].features = self._remember(slices, logits, found.presence, prompted=False)
            else:
                near = self._prepared.remember(window.crop(slices.levels[-1]), found.logits, found.presence, False)
                features = self._background(z, slices).clone()
                if self._net.no_obj_embed_spatial is not None:
                    absent = 1 - (found.presence > 0).to(features.dtype)
                    features += absent[..., None, None] * self._net.no_obj_embed_spatial[..., None, None]
                window.crop(features)[:] = near
                track.passed[z].features = self._stored(features)
        self._forget(track, z)

    @property
    def _reach(self) -> int:
        return min(super()._reach, self.opt.newest * int(self._net.memory_temporal_stride_for_eval))

    def _background(self, z: int, slices: SliceFeatures) -> torch.Tensor:
        if z not in self._backgrounds:
            size = self._net.image_size // 4
            like = slices.levels[-1]
            self._backgrounds[z] = self._prepared.remember(like, like.new_full((1, 1, size, size), OUTSIDE), like.new_ones(1, 1), False)
        return self._backgrounds[z]

    def _attend_in(self, track: Track, z: int, window: Window) -> torch.Tensor:
        net, attention = self._net, self._prepared.memory_attention
        row = int(net.num_maskmem) - 1
        spatial = self._spatial(track, z)
        starting = [entry for entry in spatial if entry[0] == 0]
        newest = [entry for entry in spatial if entry[0] >= max(1, int(net.num_maskmem) - self.opt.newest)]
        where = {id(m): y for group in (track.starting, track.passed) for y, m in group.items()}
        read = [m.read(attention, row - place, self._pooling(track, where[id(m)], m)) for place, m in starting + newest]
        found = self._ptrs(track, z)
        pointers, positions = [], None
        if found:
            pointers = [torch.cat([pointer for _, pointer in found]).view(-1, net.mem_dim)]
            positions = self._pointer_positions([[d for d, _ in found]])
        rows = None if window.shape == (self.side, self.side) else window.tokens(self.side)
        self.stats.append((window.shape[0] * window.shape[1], sum(len(r.tokens) for r in read)))
        out = attention.attend(self._features.first([z]), [read], pointers, positions, rows, self.opt.stale)
        return out.transpose(1, 2).reshape(1, -1, *window.shape)

    def _pooling(self, track: Track, y: int, m: Memory) -> Pooling | None:
        if self.opt.block == 1:
            return None
        if not hasattr(m, "pooling"):
            w = Window.around(track.logits[y], self.side)
            w = Window(0, 0, 0, 0) if w is None else w.grown(self._n(self.opt.key_margin), self.side)
            m.pooling = Pooling.outside(w, self.side, self.opt.block, torch.device("cpu"))
        return m.pooling
