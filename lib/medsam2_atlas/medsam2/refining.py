"""Refines an organ's mask: a person's marks correct it, and the slices around follow only where the network agrees.

1. Slices of the mask enter the memory as they are (SAM 2's mask prompt).
2. Each marked slice is segmented from its marks together with its current mask, conditioned on these memories.
3. From each marked slice outwards, slices are tracked. A slice's mask changes only where the tracked mask differs from it in
   the direction of the correction (added or removed), connected to the change of the slice before. The first slice without
   such a change ends this. A changed slice enters the memory with its new mask.
4. Slices of the range that have no mask are tracked from the masks on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from medsam2_atlas.base.progress import Progress, part, silent
from medsam2_atlas.medsam2.mask_changes import Change, ChangeFilter
from medsam2_atlas.medsam2.mask_prompt import CERTAIN
from medsam2_atlas.medsam2.propagation import Propagator
from medsam2_atlas.medsam2.tracks import Memory, Points, Track
from medsam2_atlas.prompting import MaskedOrgan, SliceMarks

Settle = Callable[[SliceMarks, np.ndarray], np.ndarray]
"""Returns the mask of a marked slice, bool `[y, x]`, from its marks and the network's mask."""

_LOST = 0.5
"""If a slice keeps a smaller share of its area than this times the share that the marked slice kept, the network has lost the
organ, and the slice does not change."""


@dataclass(frozen=True)
class RefineRules:
    """Settings of a refinement.

    Attributes:
        memories: max number of slices of the mask that condition a slice, spread evenly over the mask.
        changes: the filter of changes.
        patience: the number of slices without the organ after which the tracking beyond the mask's ends stops.
        min_certainty: the min certainty of such a slice with the organ; see `Track`.
    """

    memories: int
    changes: ChangeFilter
    patience: int
    min_certainty: float = 0.0


@dataclass(frozen=True, eq=False)
class RefinedMask:
    """A refined mask, and the network's logits where it has segmented.

    Attributes:
        label: the organ number.
        mask: bool `[z, y, x]`.
        logits: the network's logits `[1, h, w]` at its mask resolution, by slice that they have changed.
    """

    label: int
    mask: np.ndarray
    logits: Mapping[int, torch.Tensor]

    def plane(self, z: int) -> torch.Tensor:
        """Returns the logits `[y, x]` of slice `z`, whose signs give the mask: ± 10 where the network did not decide."""
        mask = torch.from_numpy(self.mask[z])
        certain = torch.where(mask, CERTAIN, -CERTAIN)
        if z not in self.logits:
            return certain
        found = _enlarged(self.logits[z].cpu().float(), (mask.shape[0], mask.shape[1]))
        return torch.where((found > 0) == mask, found, certain)


@dataclass
class _Outward(Track):
    """A track from a marked slice outwards that ends at the first slice where nothing agrees with the correction.

    Attributes:
        follow: takes a tracked slice and its logits; returns the memory of its changed mask, or None if it does not change.
    """

    follow: Callable[[int, torch.Tensor], Memory | None] = field(default=lambda *_: None)

    def read_later(self, z: int, reach: int) -> bool:
        """Returns False: the memory of the changed mask replaces that of the tracked mask."""
        del z, reach
        return False

    def end_if_lost(self, z: int) -> None:
        """Ends the track at a slice that does not change. The next slice is tracked, so its own mask must not condition it."""
        if z != self.start:
            memory = self.follow(z, self.logits[z])
            self.ended = memory is None
            if memory is not None:
                self.passed[z] = memory
        self.starting.pop(z + self.direction, None)


class Refiner:
    """Refines the mask of one organ on one volume.

    Args:
        propagator: runs tracks over the slices of the volume.
        points: returns a slice's marks in the network's pixels.
        organ: the current mask and the marks.
        rules: the settings.
        settle: decides on the mask of a marked slice.
    """

    def __init__(
        self,
        propagator: Propagator,
        points: Callable[[SliceMarks], Points],
        organ: MaskedOrgan,
        rules: RefineRules,
        settle: Settle,
    ) -> None:
        self._propagator, self._points, self._organ, self._rules, self._settle = propagator, points, organ, rules, settle
        self._mask = organ.mask.copy()
        self._covered, self._marked = set(organ.covered), {marks.z for marks in organ.marks}
        self._known: dict[int, tuple[torch.Tensor, Memory]] = {}
        self._logits: dict[int, torch.Tensor] = {}

    def run(self, progress: Progress = silent) -> RefinedMask:
        """Returns the refined mask; progress is reported as the stage `propagation`."""
        self._correct(part(progress, 0, 0.2))
        for n, z in enumerate(sorted(self._marked & self._covered)):
            self._follow(z)
            progress("propagation", 0.2 + 0.4 * (n + 1) / len(self._marked))
        self._fill(part(progress, 0.6, 1))
        return RefinedMask(self._organ.label, self._mask, self._logits)

    def _correct(self, progress: Progress) -> None:
        """Segments the marked slices from their marks and their current masks."""
        tracks = []
        for marks in self._organ.marks:
            z = marks.z
            track = Track(self._organ.label, z, z, 1)
            self._condition(track, self._evenly(self._covered - self._marked))
            if track.starting:
                track.corrections = {z: self._points(marks)}
                if z in self._covered:
                    track.previous = {z: self._memory(z)[0]}
            else:  # all slices of the mask are marked
                track.starts = {z: self._points(marks)}
            tracks.append(track)
        if tracks:
            self._propagator.run(tracks, progress)
        for track, marks in zip(tracks, self._organ.marks, strict=True):
            self._change(marks.z, self._settle(marks, self._above(track.logits[marks.z])), track.logits[marks.z])

    def _follow(self, z: int) -> None:
        """Changes the slices above and below a marked slice where the network agrees with the correction."""
        if not Change.between(self._organ.mask[z], self._mask[z]):
            return
        for direction in (1, -1):
            end = z
            while end + direction in self._covered - self._marked:
                end += direction
            if end == z:
                continue
            track = _Outward(self._organ.label, z, end, direction, follow=self._following(z))
            self._condition(track, {z, *self._evenly(self._covered - self._marked - {z + direction})})
            self._propagator.run([track])

    def _following(self, marked: int) -> Callable[[int, torch.Tensor], Memory | None]:
        before = Change.between(self._organ.mask[marked], self._mask[marked])
        kept = self._mask[marked].sum() / self._organ.mask[marked].sum()

        def follow(z: int, logits: torch.Tensor) -> Memory | None:
            nonlocal before
            current = self._organ.mask[z]
            before = self._rules.changes.connected(Change.between(current, self._above(logits)), before)
            if not before or before.applied(current).sum() < _LOST * kept * current.sum():
                return None
            self._change(z, before.applied(self._mask[z]), logits)
            return self._propagator.known(z, self._mask[z])[1]

        return follow

    def _fill(self, progress: Progress) -> None:
        """Tracks the slices of the range that have neither mask nor marks, from the masks on both sides."""
        held = sorted(self._covered | self._marked)
        tracks = []
        for low, high in pairwise(held):
            middle = (low + high) // 2
            ways = ((low, middle, 1), (high, middle + 1, -1))
            tracks += [self._from(held, start, end, way) for start, end, way in ways if (end - start) * way > 0]
        for start, end, way in ((held[-1], self._organ.z_max, 1), (held[0], self._organ.z_min, -1)):
            if (end - start) * way > 0:
                tracks.append(self._from(held, start, end, way))
                tracks[-1].patience, tracks[-1].min_certainty = self._rules.patience, self._rules.min_certainty
        if not tracks:
            return
        self._propagator.run(tracks, progress)
        for track in tracks:
            for z in set(track.logits) - set(held):
                self._change(z, self._above(track.logits[z]), track.logits[z])
        pieces, count = ndimage.label(self._mask)
        kept = np.zeros(count + 1, bool)  # without pieces that are not connected to a slice with a mask or marks
        kept[np.unique(pieces[held])] = True
        self._mask &= kept[pieces]

    def _from(self, held: Collection[int], start: int, end: int, direction: int) -> Track:
        """Returns a track that begins at a slice of the mask, conditioned on the slices of the mask that are nearest to it."""
        track = Track(self._organ.label, start, end, direction)
        self._condition(track, sorted(held, key=lambda z: abs(z - start))[: max(2, self._rules.memories)])
        return track

    def _evenly(self, slices: Collection[int]) -> list[int]:
        """Returns up to `memories` of some slices, spread evenly over them."""
        ordered, count = sorted(slices), self._rules.memories
        if len(ordered) <= count:
            return ordered
        return [ordered[int(place)] for place in (np.arange(count) + 0.5) * len(ordered) / count]

    def _condition(self, track: Track, slices: Collection[int]) -> None:
        for z in slices:
            track.logits[z], track.starting[z] = self._memory(z)

    def _memory(self, z: int) -> tuple[torch.Tensor, Memory]:
        """Returns the logits and the memory of a slice with its present mask."""
        if z not in self._known:
            self._known[z] = self._propagator.known(z, self._mask[z])
        return self._known[z]

    def _change(self, z: int, mask: np.ndarray, logits: torch.Tensor) -> None:
        self._mask[z], self._logits[z] = mask, logits
        self._known.pop(z, None)

    def _above(self, logits: torch.Tensor) -> np.ndarray:
        """Returns the mask of a slice, bool `[y, x]`, from its logits `[1, h, w]`."""
        shape = self._mask.shape
        found: np.ndarray = (_enlarged(logits, (shape[1], shape[2])) > 0).cpu().numpy()
        return found


def _enlarged(logits: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Returns logits `[1, h, w]` at image resolution, `[y, x]`."""
    return F.interpolate(logits[None], size=shape, mode="bilinear", align_corners=False)[0, 0]
