"""What every way to segment gives: a label map, and a report on how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsam2_atlas.base.version import package_version
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume


@dataclass(frozen=True)
class Segmentation:
    """A label map on the grid of its image, and the report on how it came about."""

    labels: Volume
    report: dict[str, Any]


def base_report(image: Volume, labels: np.ndarray, organs: Sequence[int]) -> dict[str, Any]:
    """What all reports hold: image, what was mended as it was read, organs, their volumes, versions, how values became HU."""
    import torch  # every way to segment has loaded it; `version` and others of this module do without

    table = organ_table()
    counts = np.bincount(labels.ravel(), minlength=256)
    report = {
        "image": image.source,
        "organs": [table[k].name for k in organs],
        "volumes_ml": {table[k].name: round(float(counts[k]) * image.geometry.voxel_ml, 2) for k in organs},
        "version": package_version(),
        "torch": torch.__version__,
    }
    report |= {"remarks": list(image.remarks)} if image.remarks else {}
    return report if image.hu is None else report | {"hu": dict(image.hu)}
