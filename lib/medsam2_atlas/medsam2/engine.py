"""MedSAM2 on a volume: prompts in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from medsam2_atlas.base.choices import Loop, Memory
from medsam2_atlas.base.progress import Progress, part, silent
from medsam2_atlas.medsam2.checkpoint import Weights
from medsam2_atlas.medsam2.config import medsam2_config
from medsam2_atlas.medsam2.encoder import FeatureStore
from medsam2_atlas.medsam2.preprocessing import to_uint8
from medsam2_atlas.medsam2.propagation import BOX_FIRST, BOX_LAST, OFF, ON, Mend, Points, Propagator, Track
from medsam2_atlas.prompting import Box, MarkedOrgan, OrganPrompt, SliceMarks

_MAX_HOLE = 8
"""Pixels of the network's mask resolution; `fill_hole_area` of the official predictor."""
_FILLED_LOGIT = 0.1
"""Logit of filled holes: positive, and no more, as in the official predictor."""


@dataclass(frozen=True)
class OrganLogits:
    """Mask logits of one organ on slices `z_min..z_min + n − 1`: `values` `[n, h, w]` at the network's mask resolution."""

    label: int
    z_min: int
    values: torch.Tensor

    def __contains__(self, z: int) -> bool:
        return 0 <= z - self.z_min < len(self.values)

    def plane(self, z: int, shape: tuple[int, int]) -> torch.Tensor:
        """Returns logits `[y, x]` of a slice at image resolution, by bilinear interpolation as the official predictor does."""
        low = self.values[z - self.z_min][None, None]
        return F.interpolate(low, size=shape, mode="bilinear", align_corners=False)[0, 0]


class MedSAM2Volume:
    """One CT prepared for MedSAM2; slices are encoded once, however often it is prompted."""

    def __init__(
        self,
        weights: Weights,
        hu: np.ndarray,
        *,
        window: tuple[float, float] | None = None,
        batch: int | None = None,
        memory: Memory = "",
    ) -> None:
        """
        Args:
            weights: network and weights.
            hu: CT `[z, y, x]` in HU, LPS orientation.
            window: HU range that is kept.
            batch: organs and directions that take a step together. For both, `configs/medsam2.yaml` has the default.
            memory: how sparing to be with the memory of the network's device: `small` keeps the slices' features in main
                memory and takes smaller batches, `smallest` takes one slice and one step at a time.
        """
        spares = memory in ("small", "smallest")
        max_batch, encoder_batch = medsam2_config().batches(memory)
        if batch is None or (spares and batch > max_batch):
            batch = max_batch
        kept_on = torch.device("cpu") if spares and weights.device.type != "cpu" else None
        planes = to_uint8(hu, window)
        self._net = weights.network
        self._shape = hu.shape
        self._features = FeatureStore(self._net, planes.__getitem__, min(batch, encoder_batch), kept_on)
        self._propagator = Propagator(self._net, self._features, hu.shape[0], batch)

    def segment(
        self,
        prompts: Sequence[OrganPrompt],
        *,
        loop: Loop = "symmetric",
        fill_holes: bool = False,
        progress: Progress = silent,
    ) -> dict[int, OrganLogits]:
        """Returns logits per label for all slices of each prompt's range.

        Args:
            prompts: one per label, in voxel indices of the volume.
            loop: what a second box in a direction does; see `propagation`.
            fill_holes: fill holes of up to 8 low-resolution pixels, as the official CUDA build does.
            progress: called with stage and fraction completed.
        """
        if not prompts:
            return {}
        self._features.encode((z for p in prompts for z in range(p.z_min, p.z_max + 1)), progress)
        tracks = [track for p in prompts for track in self._tracks(p, loop)]
        self._propagator.run(tracks, progress)
        results = {}
        for p in prompts:
            found: dict[int, torch.Tensor] = {}
            for track in tracks:
                if track.label == p.label:
                    found |= {z: track.logits[z] for z in range(min(track.start, track.end), max(track.start, track.end) + 1)}
            low = torch.cat([found[z] for z in range(p.z_min, p.z_max + 1)]).cpu()
            results[p.label] = OrganLogits(p.label, p.z_min, _filled(low) if fill_holes else low)
        return results

    def segment_marked(
        self,
        organ: MarkedOrgan,
        *,
        patience: int,
        min_certainty: float = 0.0,
        mend: Mend | None = None,
        progress: Progress = silent,
    ) -> OrganLogits:
        """Returns logits of an organ that a person has marked, on all slices on which it is visible.

        The slices that tell what the organ is condition all others from the start, as in the official predictor. A marked
        slice that only corrects is tracked first and then segmented again from its marks and the tracked mask together;
        then everything is tracked once more with the result, so that a correction mends the slices around it.

        Args:
            organ: in voxel indices of the volume.
            patience, min_certainty: when the search in a direction ends; see `Track`.
            mend: changes the network's logits of a marked slice before they are remembered.
            progress: called with stage and fraction completed.
        """
        starts = {marks.z: self._points(marks) for marks in organ.defining}
        corrections = {marks.z: self._points(marks) for marks in organ.correcting}
        share = 0.5 if corrections else 1.0
        tracks = self._both_ways(organ, min(starts), patience, min_certainty)
        for track in tracks:
            track.starts, track.mend = starts, mend
            track.corrections = {z: p for z, p in corrections.items() if track.direction * (z - track.start) > 0}
        self._propagator.run(tracks, part(progress, 0, share))
        if corrections:
            known = {z: memory for t in tracks for z, memory in (t.starting | t.corrected).items()}
            logits = {z: t.logits[z] for t in tracks for z in known if z in t.logits}
            tracks = self._both_ways(organ, min(known), patience, min_certainty)
            for track in tracks:
                track.starting, track.logits = dict(known), dict(logits)
            self._propagator.run(tracks, part(progress, share, 1))
        found = {z: low for track in tracks for z, low in track.logits.items()}
        return OrganLogits(organ.label, min(found), torch.cat([found[z] for z in sorted(found)]).cpu())

    @staticmethod
    def _both_ways(organ: MarkedOrgan, start: int, patience: int, min_certainty: float) -> list[Track]:
        ways = ((organ.z_max, 1), (organ.z_min, -1))
        return [Track(organ.label, start, end, way, patience=patience, min_certainty=min_certainty) for end, way in ways]

    def _tracks(self, prompt: OrganPrompt, loop: Loop) -> list[Track]:
        """From the middle box up to z_max, and from it down to z_min with a fresh memory."""
        boxes = {b.z: self._points(SliceMarks(b.z, b.box)) for b in prompt.boxes}
        middle = prompt.middle.z
        above = {z: box for z, box in boxes.items() if z >= middle}
        below = {z: box for z, box in boxes.items() if z <= middle}
        up = Track(prompt.label, middle, prompt.z_max, 1, above)
        if loop == "published":
            later = {z: box for z, box in below.items() if z != middle}
            return [up, Track(prompt.label, middle, prompt.z_min, -1, {middle: boxes[middle]}, later)]
        return [up, Track(prompt.label, middle, prompt.z_min, -1, below)]

    def _points(self, marks: SliceMarks) -> Points:
        """Marks in the network's pixels; the box first, as the official predictor has them."""
        box: Box | tuple[()] = marks.box or ()
        places = torch.tensor([*box, *(v for p in (*marks.inside, *marks.outside) for v in p)], dtype=torch.float32).view(-1, 2)
        kinds = [BOX_FIRST, BOX_LAST] * bool(box) + [ON] * len(marks.inside) + [OFF] * len(marks.outside)
        rows, columns = self._shape[1:]
        device = self._net.device
        scaled = (places / torch.tensor([columns, rows]) * self._net.image_size).to(device)
        return Points(scaled, torch.tensor(kinds, dtype=torch.int32, device=device))


def _filled(low: torch.Tensor) -> torch.Tensor:
    """Small holes of each slice's mask filled with a faintly positive logit."""
    result = low.clone()
    for n, plane in enumerate(low.numpy()):
        pieces, count = ndimage.label(plane <= 0, np.ones((3, 3)))
        if count:
            sizes = np.bincount(pieces.ravel())
            small = np.flatnonzero(sizes <= _MAX_HOLE)
            result[n][torch.from_numpy(np.isin(pieces, small[small > 0]))] = _FILLED_LOGIT
    return result
