"""Refines an organ's mask: a person's marks correct it, and the slices around follow only where the network agrees.

1. Slices of the mask enter the memory as they are (SAM 2's mask prompt).
2. Each marked slice is segmented from its marks together with its current mask, conditioned on these memories.
3. From each marked slice outwards, slices are tracked. A slice's mask changes only where the tracked mask differs from it in the
   direction of the correction (added or removed), connected to the change of the slice before. The first slice without such a
   change ends this.
4. Slices without a mask inside the range are tracked from the masks on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from medsam2_atlas.base.progress import Progress, part, silent
from medsam2_atlas.medsam2.mask_changes import Change, Thickness
from medsam2_atlas.medsam2.mask_prompt import CERTAIN
from medsam2_atlas.medsam2.propagation import Propagator
from medsam2_atlas.medsam2.tracks import Memory, Points, Track
from medsam2_atlas.prompting import MaskedOrgan, SliceMarks

Settle = Callable[[SliceMarks, np.ndarray], np.ndarray]
"""Returns the mask of a marked slice, bool `[y, x]`, from its marks and the network's mask."""


@dataclass(frozen=True)
class RefineRules:
    """Settings of a refinement.

    Attributes:
        memories: max number of slices of the mask that condition a slice.
        thickness: the filter of changes.
        patience: the number of slices without the organ after which the tracking beyond the mask's ends stops.
        min_certainty: the min certainty of such a slice with the organ; see `Track`.
    """

    memories: int
    thickness: Thickness
    patience: int
    min_certainty: float = 0.0
    near: str = "far"
    anchored: bool = True
    gap_both: bool = True
    prev: str = "mask"
    grow: object = None


@dataclass(frozen=True)
class RefinedMask:
    """A refined mask, and the network's logits where it was tracked.

    Attributes:
        label: the organ number.
        mask: bool `[z, y, x]`.
        logits: logits `[1, h, w]` at the network's mask resolution, by slice that the network has segmented.
    """

    label: int
    mask: np.ndarray
    logits: Mapping[int, torch.Tensor]

    def plane(self, z: int) -> torch.Tensor:
        """Returns the logits `[y, x]` of slice `z`: ± 10 where the network did not decide; their signs give the mask."""
        mask = torch.from_numpy(self.mask[z])
        certain = torch.where(mask, CERTAIN, -CERTAIN)
        if z not in self.logits:
            return certain
        found = _enlarged(self.logits[z].cpu(), (mask.shape[0], mask.shape[1]))
        return torch.where((found > 0) == mask, found, certain)


@dataclass
class _Spreading(Track):
    """A track from a corrected slice outwards that ends where nothing agrees with the correction.

    Attributes:
        judge: takes a tracked slice and its logits; returns whether a change was accepted.
    """

    judge: Callable[[int, torch.Tensor], Memory | None] = field(default=lambda *_: None)

    def read_later(self, z, reach):
        return True

    def end_if_lost(self, z: int) -> None:
        """Ends the track at the first slice without an accepted change; the next slice does not condition itself."""
        if z != self.start:
            memory = self.judge(z, self.logits[z])
            self.ended = memory is None
            if memory is not None and memory != "keep":
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
        self._covered = set(organ.covered)
        self._marked = {marks.z: marks for marks in organ.marks}
        self._known: dict[int, tuple[torch.Tensor, Memory]] = {}
        self._logits: dict[int, torch.Tensor] = {}
        self.spread: dict[int, int] = {}

    def run(self, progress: Progress = silent) -> RefinedMask:
        """Returns the refined mask."""
        self._correct(part(progress, 0, 0.3))
        for z in self._marked:
            self._spread(z)
        self._fill(part(progress, 0.6, 1))
        return RefinedMask(self._organ.label, self._mask, self._logits)

    def _correct(self, progress: Progress) -> None:
        """Segments the marked slices from their marks and their current masks."""
        tracks = []
        for z, marks in self._marked.items():
            near = self._chosen(z, self._covered - set(self._marked))
            track = self._track(z, z, 1, near) if near else Track(self._organ.label, z, z, 1)
            if not near:
                track.starts = {z: self._points(marks)}
            else:
                track.corrections = {z: self._points(marks)}
                if z in self._covered and self._rules.prev == "mask":
                    track.previous = {z: self._memory(z)[0]}
            tracks.append((track, marks))
        if tracks:
            self._propagator.run([track for track, _ in tracks], progress)
        for track, marks in tracks:
            z = marks.z
            logits = track.logits[z]
            self._mask[z] = self._settle(marks, self._above(logits))
            self._logits[z] = logits
            self._known.pop(z, None)

    def _spread(self, z: int) -> None:
        """Propagates the change of a marked slice to the slices above and below."""
        change = Change.between(self._organ.mask[z], self._mask[z])
        if not change or z not in self._covered:
            return
        for direction in (1, -1):
            end = z
            while end + direction in self._covered and end + direction not in self._marked:
                end += direction
            if end != z:
                others = self._covered - set(self._marked) - {z + direction}
                track = self._track(z, end, direction, self._chosen(z, others), _Spreading)
                self._hold(track, z)
                track.judge = self._judge(change)
                self._propagator.run([track])

    def _judge(self, change: Change) -> Callable[[int, torch.Tensor], bool]:
        before = change

        def judge(z: int, logits: torch.Tensor) -> Memory | None:
            nonlocal before
            found = Change.between(self._organ.mask[z], self._above(logits))
            connected = self._rules.thickness.connected
            if self._rules.grow is not None:
                from scipy import ndimage
                def clip(d, b): return d & (ndimage.distance_transform_edt(~b) <= self._rules.grow) if b.any() else d & False
                found = Change(clip(found.added, before.added), clip(found.removed, before.removed))
            before = Change(connected(found.added, before.added), connected(found.removed, before.removed))
            if not before:
                return None
            self._mask[z] = before.applied(self._mask[z])
            self._logits[z] = logits
            self._known.pop(z, None)
            self.spread[z] = self.spread.get(z, 0) + 1
            if not self._rules.anchored:
                return "keep"
            return self._propagator.known(z, self._mask[z])[1]

        return judge

    def _fill(self, progress: Progress) -> None:
        """Tracks the slices of the range that have neither mask nor marks, from the masks on both sides."""
        held = sorted(self._covered | set(self._marked))
        gaps = [(a, b) for a, b in zip(held, held[1:]) if b - a > 1]
        tracks = []
        for a, b in gaps:
            chosen = sorted(held, key=lambda z: min(abs(z - a), abs(z - b)))[: max(2, self._rules.memories)]
            middle = (a + b) // 2 if self._rules.gap_both else b - 1
            tracks.append(self._track(a, middle, 1, chosen))
            if b - 1 > middle:
                tracks.append(self._track(b, middle + 1, -1, chosen))
        for end, limit, direction in ((held[-1], self._organ.z_max, 1), (held[0], self._organ.z_min, -1)):
            if (limit - end) * direction > 0:
                chosen = sorted(held, key=lambda z: abs(z - end))[: self._rules.memories]
                track = self._track(end, limit, direction, chosen)
                track.patience, track.min_certainty = self._rules.patience, self._rules.min_certainty
                tracks.append(track)
        if tracks:
            self._propagator.run(tracks, progress)
        for track in tracks:
            for z in set(track.logits) - set(held):
                self._mask[z] = self._above(track.logits[z])
                self._logits[z] = track.logits[z]

    def _chosen(self, z: int, slices: Iterable[int]) -> list[int]:
        """Returns the slices of the mask that condition slice `z`."""
        count, kept = self._rules.memories, sorted(set(slices) - {z})
        if self._rules.near == "near":
            return sorted(kept, key=lambda other: abs(other - z))[:count]
        if self._rules.near == "far":
            if len(kept) <= count:
                return kept
            return [kept[i] for i in np.linspace(0, len(kept) - 1, count + 2).round().astype(int)[1:-1]] if count else []
        return [kept[i] for i in np.linspace(0, len(kept) - 1, count).round().astype(int)] if len(kept) > count else kept

    def _track(self, start: int, end: int, direction: int, slices: Sequence[int], kind: type[Track] = Track) -> Track:
        track = kind(self._organ.label, start, end, direction)
        for z in slices:
            self._hold(track, z)
        return track

    def _hold(self, track: Track, z: int) -> None:
        track.logits[z], track.starting[z] = self._memory(z)

    def _memory(self, z: int) -> tuple[torch.Tensor, Memory]:
        if z not in self._known:
            self._known[z] = self._propagator.known(z, self._mask[z])
        return self._known[z]

    def _above(self, logits: torch.Tensor) -> np.ndarray:
        shape = self._mask.shape
        return np.asarray((_enlarged(logits, (shape[1], shape[2])) > 0).cpu().numpy())


def _enlarged(logits: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(logits[None], size=shape, mode="bilinear", align_corners=False)[0, 0]
