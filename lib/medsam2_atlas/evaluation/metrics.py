"""Dice, normalised surface distance (NSD) and Hausdorff distance (HD95) per organ between two label maps, with MONAI."""

from __future__ import annotations

import warnings
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
    """The agreement of two masks of an organ.

    Attributes:
        dice: Dice, 0..1.
        nsd: share of both surfaces within a tolerance (`EvaluationConfig`) of the other, 0..1.
        hd95_mm: 95th percentile of the distances between the surfaces, in mm; None if one mask is empty.
        volumes_ml: volumes of the first and the second mask, in ml.
    """

    dice: float
    nsd: float
    hd95_mm: float | None
    volumes_ml: tuple[float, float]

    @property
    def volume_difference_ml(self) -> float:
        """The first volume minus the second, in ml."""
        return self.volumes_ml[0] - self.volumes_ml[1]

    def as_dict(self) -> dict[str, Any]:
        """Returns the rounded scores as JSON values."""
        rounded = {k: None if v is None else round(v, 4) for k, v in asdict(self).items() if k != "volumes_ml"}
        volumes = [round(v, 2) for v in self.volumes_ml]
        return rounded | {"volumes_ml": volumes, "volume_difference_ml": round(self.volume_difference_ml, 2)}


def compare_labels(first: Volume, second: Volume, organs: Iterable[int]) -> dict[int, OrganScore]:
    """Scores each organ that at least one of two label maps contains.

    Only the bounding box of both masks is used, so that the cost depends on the organ's size, not on the scan's. An organ that
    is missing in one label map has Dice and NSD 0 and no HD95.

    Args:
        first: label map `[z, y, x]`.
        second: label map `[z, y, x]` on the same grid.
        organs: numbers of the organs to score.

    Returns:
        Scores by organ number.

    Raises:
        InputError: if the grids differ.
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
    """Returns NSD and HD95 (mm) of two non-empty masks `[z, y, x]`; `spacing` is (z, y, x) in mm."""
    import torch  # imported here, as MONAI is, because that takes seconds, and most callers of this package need Dice only
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    # Padding closes the surfaces of masks that touch the edge of the box.
    pair = [torch.from_numpy(np.pad(mask, 1))[None, None] for mask in (first, second)]
    tolerance = evaluation_config().nsd_tolerance_mm
    with warnings.catch_warnings():  # MONAI 1.6 passes one of its own deprecated arguments
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        nsd = compute_surface_dice(*pair, class_thresholds=[tolerance], include_background=True, spacing=spacing)
        hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
    return float(nsd), float(hd95)
