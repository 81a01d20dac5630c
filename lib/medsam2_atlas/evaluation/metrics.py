"""Per-organ Dice, normalised surface distance and Hausdorff distance between two label maps, the distances by MONAI."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medsam2_atlas.evaluation.config import evaluation_config
from medsam2_atlas.imaging.dice import dice
from medsam2_atlas.imaging.masks import occupied
from medsam2_atlas.imaging.same_grid import another_grid, same_voxels
from medsam2_atlas.imaging.volume import Volume


@dataclass(frozen=True)
class OrganScore:
    """Agreement of two masks of an organ.

    dice: 0..1. nsd: share of the surfaces within a tolerance (`EvaluationConfig`) of each other, 0..1. hd95_mm: 95th percentile
    of the distances between the surfaces; None where one mask is empty. volumes_ml: of the first and of the second.
    """

    dice: float
    nsd: float
    hd95_mm: float | None
    volumes_ml: tuple[float, float]

    @property
    def volume_difference_ml(self) -> float:
        """The first less the second."""
        return self.volumes_ml[0] - self.volumes_ml[1]

    def as_dict(self) -> dict[str, Any]:
        """Rounded, for JSON."""
        rounded = {k: None if v is None else round(v, 4) for k, v in asdict(self).items() if k != "volumes_ml"}
        volumes = [round(v, 2) for v in self.volumes_ml]
        return rounded | {"volumes_ml": volumes, "volume_difference_ml": round(self.volume_difference_ml, 2)}


def compare_labels(first: Volume, second: Volume, organs: Iterable[int]) -> dict[int, OrganScore]:
    """Returns scores of every organ that at least one of two label maps on the same grid holds.

    Only the box around both masks is looked at, so that the cost is that of the organ and not of the scan. An organ that
    one map lacks has Dice and NSD 0 and no Hausdorff distance.

    Raises:
        InputError: the grids differ.
    """
    if not same_voxels(second.geometry, first.geometry):
        raise another_grid(second.source, second.geometry, first.geometry, first.source)
    spacing = tuple(reversed(first.geometry.spacing))
    scores = {}
    for k in organs:
        a, b = first.array == k, second.array == k
        box = occupied(a | b, margin=1)
        if box is None:
            continue
        volumes = tuple(float(mask.sum()) * first.geometry.voxel_ml for mask in (a, b))
        if not a.any() or not b.any():
            scores[k] = OrganScore(0.0, 0.0, None, (volumes[0], volumes[1]))
            continue
        nsd, hd95 = _surface_scores(a[box], b[box], spacing)
        scores[k] = OrganScore(dice(a[box], b[box]), nsd, hd95, (volumes[0], volumes[1]))
    return scores


def _surface_scores(first: np.ndarray, second: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float]:
    """Returns NSD and HD95 (mm) of two masks that are not empty; `spacing` is (z, y, x) in mm."""
    import torch  # with MONAI, which takes seconds to import: most users of this room need Dice alone
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    pair = [torch.from_numpy(np.pad(mask, 1))[None, None] for mask in (first, second)]  # a border closes cut surfaces
    tolerance = evaluation_config().nsd_tolerance_mm
    nsd = compute_surface_dice(*pair, class_thresholds=[tolerance], include_background=True, spacing=spacing)
    hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
    return float(nsd), float(hd95)
