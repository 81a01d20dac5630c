"""One organ from what a person marks: boxes and points on any slices, propagated through the volume by MedSAM2."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from scipy import ndimage

from medsam2_atlas.labels import organ_table
from medsam2_atlas.medsam2 import MedSAM2Volume, OrganLogits, Weights
from medsam2_atlas.progress import Progress, silent
from medsam2_atlas.prompting import MarkedOrgan
from medsam2_atlas.segmentation import Segmentation, base_report
from medsam2_atlas.volume import Volume

OUT_OF_SIGHT_MM = 12.0
"""How far an organ is followed after it went out of sight."""

DOUBT = 0.5
"""Share of the marked slices' mean logit below which a slice counts as one that does not show the organ."""


def segment_marked(
    image: Volume, prepared: MedSAM2Volume, weights: Weights, organ: MarkedOrgan, progress: Progress = silent
) -> Segmentation:
    """The organ's label map on the grid of the image; pieces that reach no marked slice are left out.

    Args:
        image: the CT.
        prepared: the same CT, prepared for these weights; slices that it has encoded are not encoded again.
        weights: for the report.
        organ: label and marks, in voxel indices of the image.
        progress: told stages and shares.
    """
    began = time.perf_counter()
    patience = max(1, round(OUT_OF_SIGHT_MM / image.geometry.spacing[2]))
    logits = prepared.segment_marked(organ, patience=patience, doubt=DOUBT, progress=progress)
    mask = _mask(logits, image.array.shape, [marks.z for marks in organ.slices])
    labels = np.where(mask, organ.label, 0).astype(np.uint8)
    report = base_report(image, labels, [organ.label]) | {
        "marks": _described(organ),
        "range": [logits.z_min, logits.z_min + len(logits.low) - 1],
        "seconds": {"network": round(time.perf_counter() - began, 3)},
        "device": str(next(weights.network.parameters()).device),
        "weights": weights.describe(),
    }
    if weights.mark:
        report["mark"] = weights.mark
    return Segmentation(image.with_array(labels), report)


def _mask(logits: OrganLogits, shape: tuple[int, ...], marked: list[int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for z in range(logits.z_min, logits.z_min + len(logits.low)):
        mask[z] = (logits.plane(z, (shape[1], shape[2])) > 0).numpy()
    pieces, count = ndimage.label(mask)
    if count > 1:
        mask = np.isin(pieces, np.setdiff1d(pieces[marked], [0]))
    return mask


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
