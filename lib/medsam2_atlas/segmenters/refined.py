"""Refines one organ's current mask: a person's marks correct it, and everything else stays as it is."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from scipy import ndimage

from medsam2_atlas.base.memory import ran_on
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.base.stages import stage
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import (
    Change,
    ChangeFilter,
    MedSAM2Volume,
    RefinedMask,
    RefineRules,
    Weights,
    describe_engine,
    engine_mode,
)
from medsam2_atlas.prompting import MaskedOrgan, SliceMarks
from medsam2_atlas.segmenters.base import Segmentation, base_report
from medsam2_atlas.segmenters.marked_config import INTERACTIVE, marks_config
from medsam2_atlas.segmenters.point_corrections import apply_points, described_marks


def refine_marked(
    image: Volume, prepared: MedSAM2Volume, weights: Weights, organ: MaskedOrgan, progress: Progress = silent
) -> Segmentation:
    """Refines an organ's mask by a person's marks. Voxels that no mark and no gap concerns stay as they are.

    Args:
        image: the CT, `[z, y, x]` in HU.
        prepared: the same CT, prepared for these weights; its encoded slices are reused.
        weights: the weights of MedSAM2, for the report.
        organ: the current mask and the marks, in voxel indices of the image.
        progress: called with stage and fraction completed.

    Returns:
        The label map `[z, y, x]` of this organ on the grid of the image, and the report.
    """
    began = time.perf_counter()
    notes: dict[int, str] = {}
    with stage("network"):
        mask = refined_mask(image, prepared, organ, notes, progress).mask
    labels = np.where(mask, organ.label, 0).astype(np.uint8)
    report = base_report(INTERACTIVE, image, labels, [organ.label]).with_fields(
        marks=described_marks(organ.label, organ.marks),
        overruled=[notes[z] for z in sorted(notes)],
        range=[organ.z_min, organ.z_max],
        refined={"mask": organ.source, "sha256": organ.sha256, **described_changes(organ.mask, mask)},
        seconds={"network": round(time.perf_counter() - began, 3)},
        **ran_on(weights.device, medsam2=True, unet=False, **engine_mode(prepared.mode)) | {"device": str(weights.device)},
        mode=prepared.mode,
        engine=describe_engine(weights.device),
        weights=weights.describe(),
        **({"mark": weights.mark} if weights.mark else {}),
    )
    return Segmentation(image.with_array(labels), report)


def refined_mask(
    image: Volume, prepared: MedSAM2Volume, organ: MaskedOrgan, notes: dict[int, str] | None = None, progress: Progress = silent
) -> RefinedMask:
    """Returns an organ's mask, refined by a person's marks, with the network's logits; see `medsam2.refining`.

    Args:
        image: the CT, `[z, y, x]` in HU.
        prepared: the same CT, prepared for a network.
        organ: the current mask and the marks.
        notes: gets a note for each slice on which a person's points overruled the network.
        progress: called with stage and fraction completed.
    """
    config, spacing = marks_config(), image.geometry.spacing
    changes = ChangeFilter.of(config.min_change_mm, config.max_slope, spacing)

    def settle(marks: SliceMarks, found: np.ndarray) -> np.ndarray:
        plane = settled(organ.mask[marks.z], found, marks, changes)
        note = apply_points(plane, image, marks)
        if note and notes is not None:
            notes[marks.z] = note
        return plane

    patience = max(1, round(config.max_gap_mm / spacing[2]))
    return prepared.refine(
        organ, RefineRules(config.max_mask_slices, changes, patience, config.min_certainty), settle, progress
    )


def settled(current: np.ndarray, found: np.ndarray, marks: SliceMarks, changes: ChangeFilter) -> np.ndarray:
    """Returns the mask of a marked slice, before points overrule it.

    A box describes the whole organ on its slice, so the network's mask replaces the current one. Points correct a part: only
    changes that contain a point are accepted, additions for points on the organ and removals for points outside of it.

    Args:
        current: the current mask of the slice, bool `[y, x]`.
        found: the network's mask, bool `[y, x]`.
        marks: the marks on the slice.
        changes: the filter of changes.
    """
    if marks.box is not None or not current.any():
        return found.copy()
    change = Change.between(current, found)
    return changes.at(change, _at(marks.inside, current), _at(marks.outside, current)).applied(current)


def described_changes(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Describes what a refinement changed.

    Args:
        before: the mask, bool `[z, y, x]`.
        after: the refined mask, bool `[z, y, x]`.

    Returns:
        `added` and `removed`, in voxels, and the same by range of successive changed slices (`slices`).
    """
    added, removed = ((one & ~other).sum((1, 2)) for one, other in ((after, before), (before, after)))
    ranges, count = ndimage.label(added + removed > 0)
    slices = [np.flatnonzero(ranges == n) for n in range(1, count + 1)]
    return {
        "added": int(added.sum()),
        "removed": int(removed.sum()),
        "slices": [
            {"z": [int(zs[0]), int(zs[-1])], "added": int(added[zs].sum()), "removed": int(removed[zs].sum())} for zs in slices
        ],
    }


def _at(points: tuple[tuple[float, float], ...], like: np.ndarray) -> np.ndarray:
    """Returns a mask, bool `[y, x]`, of the pixels at some points (x, y)."""
    seeds = np.zeros_like(like)
    for x, y in points:
        seeds[round(y), round(x)] = True
    return seeds
