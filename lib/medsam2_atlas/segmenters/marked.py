"""Segments organs from a person's marks: MedSAM2 propagates boxes and points on any slices through the volume."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from medsam2_atlas.base.choices import MODES
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.memory import ran_on
from medsam2_atlas.base.progress import Progress, current, part, silent
from medsam2_atlas.base.stages import stage
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import MedSAM2Volume, OrganLogits, Weights, describe_engine, engine_mode
from medsam2_atlas.prompting import MarkedOrgan, SliceMarks
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Provenance, Segmentation, Segmenter, base_report
from medsam2_atlas.segmenters.changed_settings import changed_options, marked_settings
from medsam2_atlas.segmenters.mark_results import FoundOrgan, MarkedLabels, MarkResult, MarkResults
from medsam2_atlas.segmenters.marked_config import INTERACTIVE, marks_config
from medsam2_atlas.segmenters.point_corrections import apply_points, described_marks
from medsam2_atlas.segmenters.refined import refine_marked


class Marked(Segmenter):
    """MedSAM2, prompted by a person's marks. Slices that a case has encoded stay encoded (`open_images`)."""

    def check(self) -> None:
        """Loads the weights."""
        self._resources.weights()

    def available_options(self) -> dict[str, Any]:
        """Returns the weights, the modes of MedSAM2, and `reach`: max distance from the marks in mm; empty for no limit."""
        return {"weights": self._resources.weight_names(), "mode": list(MODES), "reach": ""}

    def describe(self) -> dict[str, Any]:
        """Returns the mark of the weights."""
        return {"weights_mark": self._resources.weights().mark}

    def provenance(self, options: Options) -> Provenance:
        """Returns the inputs of the result. The result itself is never stored, because it contains one organ only."""
        device = self._resources.ladder.device_of(options.memory)
        weights = self._resources.weights(options.weights).sha256
        found = self._basis(options) | {"weights": weights} | changed_options(options, "mode") | marked_settings()
        if options.masked is not None:
            found |= {"mask": options.masked.sha256}
        return found | ran_on(device, medsam2=True, unet=False, memory=options.memory, **engine_mode(options.mode))

    def segment(self, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        """Segments the organs of `options.marks` and `options.more_marks`, or refines the mask of `options.masked`.

        Raises:
            InputError: if the options contain no marks.
            WeightsError: if MedSAM2 has no weights.
        """
        if options.marks is None and options.masked is None:
            raise InputError("marks", "are missing.", "Draw a box around the organ, or set a point on it.")
        weights = self._resources.weights(options.weights, self._resources.ladder.device_of(options.memory))
        with stage("network"):
            opened = self._resources.images.open(volume, weights, memory=options.memory, mode=options.mode)
        with opened.used() as prepared:
            if options.masked is not None:
                return refine_marked(volume, prepared, weights, options.masked, current())
            assert options.marks is not None
            organs = (options.marks, *options.more_marks)
            return segment_marked(volume, prepared, weights, organs, current(), opened.results)


def segment_marked(
    image: Volume,
    prepared: MedSAM2Volume,
    weights: Weights,
    organs: MarkedOrgan | Sequence[MarkedOrgan],
    progress: Progress = silent,
    results: MarkResults | None = None,
) -> Segmentation:
    """Segments organs from a person's marks. Components that contain no voxel of a marked slice are removed.

    A person's points overrule the network: a mask that contradicts a point is corrected (`apply_points`), and the report lists
    the correction (`overruled`). A voxel of several organs' masks gets the organ with the highest logit.

    Args:
        image: the CT, `[z, y, x]` in HU.
        prepared: the same CT, prepared for these weights; its encoded slices are reused.
        weights: the weights of MedSAM2, for the report.
        organs: numbers and marks of one or several organs, in voxel indices of the image; each organ once.
        progress: called with stage and fraction completed.
        results: earlier results on the same CT with the same weights; an organ with the same marks is not propagated again.

    Returns:
        The label map `[z, y, x]` of these organs on the grid of the image, and the report.
    """
    began = time.perf_counter()
    given = [organs] if isinstance(organs, MarkedOrgan) else list(organs)
    fused = MarkedLabels(image.array.shape)
    for n, organ in enumerate(given):
        fused.add(*_found(image, prepared, organ, part(progress, n / len(given), (n + 1) / len(given)), results))
    labels, found = fused.fused(), fused.found
    ends = [(one.logits.z_min, one.logits.z_min + len(one.logits.values) - 1) for one in found]
    report = base_report(INTERACTIVE, image, labels, [organ.label for organ in given]).with_fields(
        marks=[marks for organ in given for marks in described_marks(organ.label, organ.slices)],
        overruled=[note for one in found for note in one.overruled],
        range=[min(first for first, _ in ends), max(last for _, last in ends)],
        seconds={"network": round(time.perf_counter() - began, 3)},
        **ran_on(weights.device, medsam2=True, unet=False, **engine_mode(prepared.mode)) | {"device": str(weights.device)},
        mode=prepared.mode,
        engine=describe_engine(weights.device),
        weights=weights.describe(),
        **({"mark": weights.mark} if weights.mark else {}),
    )
    return Segmentation(image.with_array(labels), report)


def _found(
    image: Volume, prepared: MedSAM2Volume, organ: MarkedOrgan, progress: Progress, results: MarkResults | None
) -> tuple[FoundOrgan, np.ndarray]:
    """Returns an organ, and its mask `[z, y, x]`, which agrees with all points."""
    key = (organ, marks_config().model_dump_json())
    result = (MarkResults() if results is None else results).get(key, lambda: _propagated(image, prepared, organ, progress))
    overruled, certain = dict(result.overruled), []
    mask = _mask(result.logits, image.array.shape)
    for marks in organ.slices:  # the logits were corrected at the network's resolution; this corrects the mask
        before = mask[marks.z].copy()
        note = apply_points(mask[marks.z], image, marks)
        if note:
            overruled.setdefault(marks.z, note)
        certain += [(marks.z, y, x) for y, x in np.argwhere(mask[marks.z] & ~before)]
        certain += [(marks.z, round(y), round(x)) for x, y in marks.inside]
    mask = _reaching(mask, [marks.z for marks in organ.slices])
    notes = tuple(overruled[z] for z in sorted(overruled))
    return FoundOrgan(organ, result.logits, np.array(certain, int).reshape(-1, 3), notes), mask


def _propagated(image: Volume, prepared: MedSAM2Volume, organ: MarkedOrgan, progress: Progress) -> MarkResult:
    config = marks_config()
    patience = max(1, round(config.max_gap_mm / image.geometry.spacing[2]))
    by_slice, overruled = {marks.z: marks for marks in organ.slices}, dict[int, str]()

    def mend(z: int, low: torch.Tensor) -> torch.Tensor:
        mended, note = _mended(low, image, by_slice[z])
        if note:
            overruled[z] = note
        return mended

    with stage("network"):
        logits = prepared.segment_marked(
            organ, patience=patience, min_certainty=config.min_certainty, mend=mend, progress=progress
        )
    return MarkResult(logits, overruled)


def _mask(logits: OrganLogits, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for z in range(logits.z_min, logits.z_min + len(logits.values)):
        mask[z] = (logits.plane(z, (shape[1], shape[2])) > 0).numpy()
    return mask


def _reaching(mask: np.ndarray, marked: list[int]) -> np.ndarray:
    """Returns the components of a mask `[z, y, x]` that contain a voxel of a marked slice."""
    pieces, count = ndimage.label(mask)
    return np.isin(pieces, np.setdiff1d(pieces[marked], [0])) if count > 1 else mask


def _mended(low: torch.Tensor, image: Volume, marks: SliceMarks) -> tuple[torch.Tensor, str]:
    """Applies a person's points to a marked slice's logits `[1, h, w]`, so that they affect the other slices too.

    Returns:
        The changed logits and a note on the change. If the points change nothing, the same logits and an empty string.
    """
    shape = image.array.shape[1:]
    before = (OrganLogits(0, marks.z, low).plane(marks.z, (shape[0], shape[1])) > 0).cpu().numpy()
    after = before.copy()
    note = apply_points(after, image, marks)
    if not note:
        return low, ""
    change = torch.from_numpy(after.astype(np.float32) - before)[None, None]
    change = F.interpolate(change, low.shape[-2:], mode="area")[0].to(low.device)
    config = marks_config()
    certain, share = torch.full_like(low, config.certain_logit), config.min_changed_share
    return torch.where(change > share, certain, torch.where(change < -share, -certain, low)), note
