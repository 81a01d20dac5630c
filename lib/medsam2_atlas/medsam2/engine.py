"""Runs MedSAM2 on a volume: from prompts to logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from medsam2_atlas.base.choices import Loop, Memory, Mode
from medsam2_atlas.base.errors import ResultsError
from medsam2_atlas.base.progress import Progress, part, silent
from medsam2_atlas.medsam2.batched_propagation import BatchedPropagator
from medsam2_atlas.medsam2.checkpoint import Weights
from medsam2_atlas.medsam2.config import medsam2_config
from medsam2_atlas.medsam2.encoder import FeatureStore
from medsam2_atlas.medsam2.fast import FastPropagator
from medsam2_atlas.medsam2.preprocessing import to_uint8
from medsam2_atlas.medsam2.propagation import Propagator
from medsam2_atlas.medsam2.refining import RefinedMask, Refiner, RefineRules, Settle
from medsam2_atlas.medsam2.tracks import BOX_FIRST, BOX_LAST, OFF, ON, Mend, Points, Track
from medsam2_atlas.medsam2.uploads import uploaded
from medsam2_atlas.prompting import Box, MarkedOrgan, MaskedOrgan, OrganPrompt, SliceMarks

_MAX_HOLE = 8
"""Max size of a filled hole, in pixels of the network's mask resolution; `fill_hole_area` of the official predictor."""
_FILLED_LOGIT = 0.1
"""Logit of filled holes: slightly positive, as in the official predictor."""


@dataclass(frozen=True)
class OrganLogits:
    """The mask logits of one organ on n successive slices.

    Attributes:
        label: the organ number.
        z_min: the first slice.
        values: the logits, `[n, h, w]`, at the network's mask resolution (a quarter of its input's).
    """

    label: int
    z_min: int
    values: torch.Tensor

    def __contains__(self, z: int) -> bool:
        return 0 <= z - self.z_min < len(self.values)

    def plane(self, z: int, shape: tuple[int, int]) -> torch.Tensor:
        """Returns the logits of slice `z` at image resolution, by bilinear interpolation as in the official predictor.

        Args:
            z: the slice.
            shape: the rows and columns of the image.

        Returns:
            `[y, x]`.
        """
        small = self.values[z - self.z_min][None, None]
        return F.interpolate(small, size=shape, mode="bilinear", align_corners=False)[0, 0]

    def planes(self, shape: tuple[int, int]) -> np.ndarray:
        """Returns the logits of all slices at image resolution, `[n, y, x]`; see `plane`.

        Args:
            shape: the rows and columns of the image.
        """
        return np.stack([self.plane(self.z_min + n, shape).numpy() for n in range(len(self.values))])


class MedSAM2Volume:
    """A CT prepared for MedSAM2. Each slice is encoded once, however often the volume is prompted.

    Args:
        weights: the network and its weights.
        hu: the CT in HU, `[z, y, x]`, in the LPS orientation.
        window: the min and max HU to which the CT is clipped; those of `configs/medsam2.yaml` by default.
        batch: max number of tracks (organ and direction) in one batch. By default, 1 on the CPU, where larger batches gain
            nothing, and the value of `configs/medsam2.yaml` on a GPU.
        memory: the step of the memory ladder. `small` stores the slices' features in main memory and uses smaller batches,
            `smallest` uses batches of one.
        mode: `exact` gives the official predictor's result; `fast` approximates it in less time.
    """

    def __init__(
        self,
        weights: Weights,
        hu: np.ndarray,
        *,
        window: tuple[float, float] | None = None,
        batch: int | None = None,
        memory: Memory = "",
        mode: Mode = "exact",
    ) -> None:
        self.mode = mode
        config = medsam2_config()
        spares = memory in ("small", "smallest")
        max_batch, encoder_batch = config.batches(memory, weights.device.type)
        if batch is None or (spares and batch > max_batch):
            batch = max_batch
        kept_on = torch.device("cpu") if spares and weights.device.type != "cpu" else None
        planes = to_uint8(hu, window)
        prepared = weights.prepared_for(mode)
        self._prepared, self._net, self._file = prepared, prepared.network, weights.file
        self._shape = hu.shape
        max_bytes = int(config.feature_megabytes * 2**20)
        self._features = FeatureStore(prepared, planes.__getitem__, min(batch, encoder_batch), max_bytes, kept_on)
        if weights.device.type != "cpu":
            self._propagator: Propagator = BatchedPropagator(prepared, self._features, hu.shape[0], batch)
        elif mode == "fast":
            self._propagator = FastPropagator(prepared, self._features, hu.shape[0])
        else:
            self._propagator = Propagator(prepared, self._features, hu.shape[0], batch)

    @property
    def bytes(self) -> int:
        """The memory of the CT's voxels (8 bit) and its encoded slices."""
        return math.prod(self._shape) + self._features.bytes

    @property
    def slice_bytes(self) -> float:
        """The mean memory of an encoded slice; 0 before the first one is encoded."""
        return self._features.bytes / max(1, len(self._features))

    def segment(
        self,
        prompts: Sequence[OrganPrompt],
        *,
        loop: Loop = "symmetric",
        fill_holes: bool = False,
        progress: Progress = silent,
    ) -> dict[int, OrganLogits]:
        """Returns the logits by label, for all slices of each prompt's range.

        Args:
            prompts: one prompt per label, in voxel indices of the volume.
            loop: the effect of a second box in a direction; see `propagation`.
            fill_holes: whether holes of up to 8 pixels (at mask resolution) are filled, as the official CUDA build does.
            progress: called with the stage and the fraction completed.
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
            logits = self._result([found[z] for z in range(p.z_min, p.z_max + 1)])
            results[p.label] = OrganLogits(p.label, p.z_min, _filled(logits) if fill_holes else logits)
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
        """Returns the logits of an organ that a person has marked, on all slices on which the organ is visible.

        The slices that define the organ condition all others from the start, as in the official predictor. A correcting slice
        is first tracked, then segmented again from its marks together with the tracked mask. After that, all slices are tracked
        once more with the result, so that a correction also changes the slices around it.

        Args:
            organ: the marks, in voxel indices of the volume.
            patience: the number of slices without the organ after which the search in a direction ends; see `Track`.
            min_certainty: the min certainty of a slice with the organ; see `Track`.
            mend: changes the network's logits of a marked slice before they enter the memory; None by default.
            progress: called with the stage and the fraction completed.
        """
        starts = {marks.z: self._points(marks) for marks in organ.defining}
        corrections = {marks.z: self._points(marks) for marks in organ.correcting}
        tracks = self._both_ways(organ, min(starts), patience, min_certainty)
        whole = sum(len(track) for track in tracks)
        for track in tracks:
            track.starts, track.mend = starts, mend
            track.corrections = {z: p for z, p in corrections.items() if track.direction * (z - track.start) > 0}
            if corrections:  # the second run gives the other slices
                track.end = max((track.start, *track.corrections), key=lambda z: abs(z - track.start))
        first = sum(len(track) for track in tracks)
        share = first / (first + whole) if corrections else 1.0
        self._propagator.run(tracks, part(progress, 0, share))
        if corrections:
            known = {z: memory for t in tracks for z, memory in (t.starting | t.corrected).items()}
            logits = {z: t.logits[z] for t in tracks for z in known if z in t.logits}
            tracks = self._both_ways(organ, min(known), patience, min_certainty)
            for track in tracks:
                track.starting, track.logits = dict(known), dict(logits)
            self._propagator.run(tracks, part(progress, share, 1))
        found = {z: logits for track in tracks for z, logits in track.logits.items()}
        return OrganLogits(organ.label, min(found), self._result([found[z] for z in sorted(found)]))

    def _result(self, slices: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns the logits of successive slices, `[n, h, w]`, on the CPU.

        Raises:
            ResultsError: the network's numbers have exceeded the range of float16.
        """
        logits = torch.cat(list(slices)).cpu()
        if self._prepared.arithmetic.half == torch.float16 and not bool(torch.isfinite(logits).all()):
            raise ResultsError(
                self._file, "exceed the range of float16, in which this GPU computes in fast mode.", "Use the exact mode."
            )
        return logits

    def refine(self, organ: MaskedOrgan, rules: RefineRules, settle: Settle, progress: Progress = silent) -> RefinedMask:
        """Returns an organ's mask, corrected by a person's marks; see `refining`.

        Args:
            organ: the current mask and the marks, in voxel indices of the volume.
            rules: the settings.
            settle: decides on the mask of a marked slice.
            progress: called with the stage and the fraction completed.
        """
        return Refiner(self._propagator, self._points, organ, rules, settle).run(progress)

    @staticmethod
    def _both_ways(organ: MarkedOrgan, start: int, patience: int, min_certainty: float) -> list[Track]:
        ways = ((organ.z_max, 1), (organ.z_min, -1))
        return [Track(organ.label, start, end, way, patience=patience, min_certainty=min_certainty) for end, way in ways]

    def _tracks(self, prompt: OrganPrompt, loop: Loop) -> list[Track]:
        """Returns one track from the middle box up to z_max, and one down to z_min with a new memory."""
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
        """Converts a slice's marks to the network's pixels; the box comes first, as in the official predictor."""
        box: Box | tuple[()] = marks.box or ()
        places = torch.tensor([*box, *(v for p in (*marks.inside, *marks.outside) for v in p)], dtype=torch.float32).view(-1, 2)
        kinds = [BOX_FIRST, BOX_LAST] * bool(box) + [ON] * len(marks.inside) + [OFF] * len(marks.outside)
        rows, columns = self._shape[1:]
        device = self._net.device
        scaled = places / torch.tensor([columns, rows]) * self._net.image_size
        return Points(uploaded(scaled, device), uploaded(torch.tensor(kinds, dtype=torch.int32), device))


def _filled(logits: torch.Tensor) -> torch.Tensor:
    """Returns logits `[n, h, w]` in which small holes of each slice's mask have a slightly positive logit."""
    result = logits.clone()
    for n, plane in enumerate(logits.numpy()):
        pieces, count = ndimage.label(plane <= 0, np.ones((3, 3)))
        if count:
            sizes = np.bincount(pieces.ravel())
            small = np.flatnonzero(sizes <= _MAX_HOLE)
            result[n][torch.from_numpy(np.isin(pieces, small[small > 0]))] = _FILLED_LOGIT
    return result
