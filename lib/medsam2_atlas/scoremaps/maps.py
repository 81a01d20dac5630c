"""Score maps of a target's organs, on a grid that does not grow with 512 × 512 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from medsam2_atlas.imaging.cropped_map import CroppedMap
from medsam2_atlas.imaging.volume import Geometry
from medsam2_atlas.registration import Transform


@dataclass(frozen=True)
class ScoreMap(CroppedMap):
    """One organ's score in a target, cropped: all of the target's slices are kept apart, pixels are about 2 mm.

    values: `[z, y, x]` uint8, 255 = 1. low: (z, y, x) of the first voxel on the reduced grid. visible: share 0..1 of
    the organ, as the atlas knows it, that lies in the target's field of view. evidence: what speaks for it; see
    `with_evidence`.
    """

    visible: float
    evidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreMaps:
    """Score maps of all organs of an atlas in a target, on the target's slices.

    The reduced grid has the target's slices and every `stride`-th pixel, so that memory does not grow with 512 × 512.
    transform: from the target's world points to the common space's; inverse: the way back. thresholds: per organ, where
    the atlas knows its best.
    """

    maps: dict[int, ScoreMap]
    geometry: Geometry
    stride: int
    transform: Transform
    inverse: Transform
    thresholds: Mapping[int, float] = field(default_factory=dict)

    @property
    def reduced_shape(self) -> tuple[int, int, int]:
        """Shape `(z, y', x')` of the reduced grid."""
        return reduced_shape(self.geometry, self.stride)

    @property
    def reduced_spacing(self) -> np.ndarray:
        """Spacing (z, y, x) in mm of the reduced grid."""
        x, y, z = self.geometry.spacing
        return np.array([z, self.stride * y, self.stride * x])

    @cached_property
    def turned(self) -> bool:
        """Whether the patient lies the other way round than the file says: half a turn around z."""
        middle = self.geometry.to_world((np.array(self.geometry.size) - 1) / 2)
        points = torch.from_numpy(middle + np.array([[0.0, 0, 0], [1.0, 0, 0]])).float()
        right, left = self.transform(points)[:, 0].tolist()
        return bool(left < right)

    def plane(self, organ: int, z: int) -> np.ndarray:
        """Returns scores `[y, x]` float32, 0..1, of a slice at the target's full resolution."""
        reduced = self.reduced_plane(organ, z)
        full = F.interpolate(torch.from_numpy(reduced)[None, None], scale_factor=self.stride, mode="bilinear")[0, 0]
        result: np.ndarray = full[: self.geometry.size[1], : self.geometry.size[0]].numpy()
        return result

    def reduced_plane(self, organ: int, z: int) -> np.ndarray:
        """Returns scores `[y', x']` float32 of a slice on the reduced grid."""
        rows, columns = self.reduced_shape[1:]
        score = self.maps.get(organ)
        if score is None:
            return np.zeros((rows, columns), np.float32)
        return score.over((slice(z, z + 1), slice(0, rows), slice(0, columns)))[0]


def reduced_shape(geometry: Geometry, stride: int) -> tuple[int, int, int]:
    """Shape `(z, y', x')` of the grid that keeps all slices and every `stride`-th pixel."""
    return geometry.size[2], -(-geometry.size[1] // stride), -(-geometry.size[0] // stride)
