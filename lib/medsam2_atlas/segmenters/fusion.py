"""Fuses the logits or score maps of organs to one label map."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from medsam2_atlas.imaging.masks import keep_largest_components
from medsam2_atlas.medsam2 import OrganLogits
from medsam2_atlas.scoremaps import ScoreMaps, adaptive_threshold, fusion_config


def fuse_logits(logits: Mapping[int, OrganLogits], shape: tuple[int, ...]) -> np.ndarray:
    """Gives each voxel to the organ of the highest logit, and keeps the largest component of each organ.

    The background has logit 0. Softmax keeps the order of logits, so the arg max needs no softmax. The fusion works slice by
    slice, so that the logits of all organs never exist at full resolution at the same time.

    Args:
        logits: logits by organ number.
        shape: shape (z, y, x) of the label map.

    Returns:
        Organ numbers `[z, y, x]`, uint8.
    """
    labels = np.zeros(shape, np.uint8)
    for z in range(shape[0]):
        here = [k for k in logits if z in logits[k]]
        if here:
            planes = torch.stack([torch.zeros(shape[1:]), *(logits[k].plane(z, (shape[1], shape[2])) for k in here)])
            labels[z] = np.array([0, *here], np.uint8)[planes.argmax(0).numpy()]
    return keep_largest_components(labels)


def fuse_scores(scores: ScoreMaps) -> np.ndarray:
    """Returns the label map `[z, y, x]`, uint8, of score maps alone, without a network.

    Each voxel gets the organ with the highest score, among the organs whose score at this voxel exceeds their
    adaptive threshold.
    """
    shape = scores.geometry.shape
    labels, config = np.zeros(shape, np.uint8), fusion_config().thresholds
    floor = {k: adaptive_threshold(m, config) for k, m in scores.maps.items() if m.maximum > 0}
    for z in range(shape[0]):
        here = [k for k in floor if 0 <= z - scores.maps[k].lower[0] < len(scores.maps[k].values)]
        if here:
            planes = np.stack([scores.plane(k, z) for k in here])
            planes[planes <= np.array([floor[k] for k in here])[:, None, None]] = 0
            labels[z] = np.where(planes.max(0) > 0, np.array(here, np.uint8)[planes.argmax(0)], 0)
    return keep_largest_components(labels)
