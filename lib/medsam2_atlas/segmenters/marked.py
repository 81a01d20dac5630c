"""Segments one organ from a person's marks: MedSAM2 propagates boxes and points on any slices through the volume."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from medsam2_atlas.base.choices import MODES
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.memory import free_gpu_memory, ran_on
from medsam2_atlas.base.progress import Progress, current, silent
from medsam2_atlas.base.stages import stage
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import MedSAM2Volume, OrganLogits, Weights, describe_engine
from medsam2_atlas.prompting import MarkedOrgan, SliceMarks
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Provenance, Resources, Segmentation, Segmenter, base_report
from medsam2_atlas.segmenters.changed_settings import changed_options, marked_settings
from medsam2_atlas.segmenters.marked_config import marks_config

INTERACTIVE = "medsam2"


@dataclass(frozen=True)
class _Open:
    """The CT that was segmented last, prepared for MedSAM2; `key` identifies CT, weights, device, memory step and mode."""

    key: tuple[str, ...]
    prepared: MedSAM2Volume


class Marked(Segmenter):
    """MedSAM2, prompted by a person's marks. The slices of the last CT stay encoded, so a correction only propagates again."""

    def __init__(self, name: str, resources: Resources) -> None:
        super().__init__(name, resources)
        self._open: _Open | None = None
        resources.at_release(self._close)

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
        return found | ran_on(device, medsam2=True, unet=False, memory=options.memory)

    def segment(self, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        """Segments the organ of `options.marks`; see `segment_marked`.

        Raises:
            InputError: if the options contain no marks.
            WeightsError: if MedSAM2 has no weights.
        """
        if options.marks is None:
            raise InputError("marks", "are missing.", "Draw a box around the organ, or set a point on it.")
        weights = self._resources.weights(options.weights, self._resources.ladder.device_of(options.memory))
        prepared = self._prepared(volume, weights, options)
        return segment_marked(volume, prepared, weights, options.marks, current())

    def _prepared(self, image: Volume, weights: Weights, options: Options) -> MedSAM2Volume:
        key = (image.digest, weights.sha256, str(weights.device), options.memory, options.mode)
        if self._open is None or self._open.key != key:
            self._close()  # frees its memory before the next CT needs it
            if weights.device.type == "cuda":
                free_gpu_memory()
            with stage("network"):
                self._open = _Open(key, MedSAM2Volume(weights, image.array, memory=options.memory, mode=options.mode))
        return self._open.prepared

    def _close(self) -> None:
        self._open = None


def segment_marked(
    image: Volume, prepared: MedSAM2Volume, weights: Weights, organ: MarkedOrgan, progress: Progress = silent
) -> Segmentation:
    """Segments one organ from a person's marks. Components that contain no voxel of a marked slice are removed.

    A person's points overrule the network: a mask that contradicts a point is corrected (`apply_points`), and the report lists
    the correction (`overruled`).

    Args:
        image: the CT, `[z, y, x]` in HU.
        prepared: the same CT, prepared for these weights; its encoded slices are reused.
        weights: the weights of MedSAM2, for the report.
        organ: organ number and marks, in voxel indices of the image.
        progress: called with stage and fraction completed.

    Returns:
        The label map `[z, y, x]` of this organ on the grid of the image, and the report.
    """
    began = time.perf_counter()
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
    mask = _mask(logits, image.array.shape)
    for z, marks in by_slice.items():  # the logits were corrected at the network's resolution; this corrects the mask
        note = apply_points(mask[z], image, marks)
        if note:
            overruled.setdefault(z, note)
    mask = _reaching(mask, [marks.z for marks in organ.slices])
    labels = np.where(mask, organ.label, 0).astype(np.uint8)
    report = base_report(INTERACTIVE, image, labels, [organ.label]).with_fields(
        marks=_described(organ),
        overruled=[overruled[z] for z in sorted(overruled)],
        range=[logits.z_min, logits.z_min + len(logits.values) - 1],
        seconds={"network": round(time.perf_counter() - began, 3)},
        **ran_on(weights.device, medsam2=True, unet=False) | {"device": str(weights.device)},
        mode=prepared.mode,
        engine=describe_engine(weights.device),
        weights=weights.describe(),
        **({"mark": weights.mark} if weights.mark else {}),
    )
    return Segmentation(image.with_array(labels), report)


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


def apply_points(plane: np.ndarray, image: Volume, marks: SliceMarks) -> str:
    """Corrects a slice's mask in place, so that it agrees with a person's points.

    A point off the organ removes the mask's component that contains it if the point is about as deep inside as the
    component's deepest pixel. Otherwise, it removes the component's pixels that are nearer to the point than to that deepest
    pixel. A point on the organ, but outside the mask, adds the connected pixels around it of similar intensity.

    Args:
        plane: the mask `[y, x]`, bool; changed in place.
        image: the CT, `[z, y, x]` in HU.
        marks: marks of this slice, in voxel indices (x, y).

    Returns:
        The list of corrections as text; empty if the mask agreed with all points.
    """
    config, step = marks_config(), np.array(image.geometry.spacing[1::-1])
    notes = []
    for x, y in marks.outside:
        off = (round(y), round(x))
        pieces, _ = ndimage.label(plane)
        if pieces[off]:
            piece = pieces == pieces[off]
            depth = ndimage.distance_transform_edt(np.pad(piece, 1), sampling=step)[1:-1, 1:-1]
            core = np.unravel_index(int(depth.argmax()), depth.shape)
            wrong = piece
            if depth[off] < config.min_inner_depth * depth[core]:
                wrong = piece & (_distances(plane.shape, off, step) < _distances(plane.shape, core, step))
            plane[wrong] = False
            notes.append(f"slice {marks.z}: ({x:.0f}, {y:.0f}) was removed")
    for x, y in marks.inside:
        on = (round(y), round(x))
        if not plane[on]:
            near = _distances(plane.shape, on, step) < config.max_radius_mm
            plane |= _similar(image.array[marks.z], on, near, config.max_hu_difference)
            notes.append(f"slice {marks.z}: ({x:.0f}, {y:.0f}) was added")
    return "; ".join(notes)


def _distances(shape: tuple[int, ...], pixel: Sequence[int | np.integer], step: np.ndarray) -> np.ndarray:
    """Returns the distances `[y, x]` of all pixels to one pixel (y, x), in mm; `step` is the spacing (y, x) in mm."""
    rows, columns = np.indices(shape)
    distance: np.ndarray = np.hypot((rows - pixel[0]) * step[0], (columns - pixel[1]) * step[1])
    return distance


def _similar(hu: np.ndarray, pixel: tuple[int, int], near: np.ndarray, max_difference: float) -> np.ndarray:
    """Returns the pixels `[y, x]` that are connected to one pixel (y, x), near it, and of similar HU; holes are filled."""
    around = hu[max(0, pixel[0] - 1) : pixel[0] + 2, max(0, pixel[1] - 1) : pixel[1] + 2]
    similar = near & (np.abs(hu - np.median(around)) <= max_difference)
    similar[pixel] = True
    pieces, _ = ndimage.label(similar)
    piece: np.ndarray = pieces == pieces[pixel]
    return ndimage.binary_fill_holes(piece)


def _described(organ: MarkedOrgan) -> list[dict[str, Any]]:
    return [
        {
            "organ": organ_table()[organ.label].name,
            "z": marks.z,
            "box": marks.box,
            "inside": marks.inside,
            "outside": marks.outside,
        }
        for marks in organ.slices
    ]
