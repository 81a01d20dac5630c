"""Score maps of a target's organs, on a grid with fewer pixels than the target's 512 × 512."""

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
from medsam2_atlas.scoremaps.sex import AssumedSex


@dataclass(frozen=True)
class ScoreMap(CroppedMap):
    """One organ's score map in a target, cropped. It has all of the target's slices; pixels are about 2 mm.

    Attributes:
        values: `[z, y, x]` uint8; 255 stands for 1.
        lower: (z, y, x) of the first voxel on the reduced grid.
        visible: share of the organ inside the target's field of view, 0..1, estimated from the atlas' map.
        evidence: measures of the map's reliability, by name; see `evidence.with_evidence`.
    """

    visible: float
    evidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreMaps:
    """Score maps of all organs of an atlas in a target, on a reduced grid.

    The reduced grid has all of the target's slices and every `stride`-th pixel, which saves memory.

    Attributes:
        maps: the maps by organ number.
        geometry: the target's grid.
        stride: the target's pixels per pixel of the reduced grid, along x and along y.
        transform: the transform from the target's world points to the common space's (x, y, z in mm, LPS).
        inverse: the inverse of `transform`.
        thresholds: the best threshold by organ number, if the atlas contains one.
        sex: the target's estimated sex; None if it was not estimated.
    """

    maps: dict[int, ScoreMap]
    geometry: Geometry
    stride: int
    transform: Transform
    inverse: Transform
    thresholds: Mapping[int, float] = field(default_factory=dict)
    sex: AssumedSex | None = None

    @property
    def reduced_shape(self) -> tuple[int, int, int]:
        """The shape `(z, y', x')` of the reduced grid."""
        return reduced_shape(self.geometry, self.stride)

    @property
    def reduced_spacing(self) -> np.ndarray:
        """The spacing of the reduced grid, `[3]` (z, y, x) in mm."""
        x, y, z = self.geometry.spacing
        return np.array([z, self.stride * y, self.stride * x])

    @cached_property
    def turned(self) -> bool:
        """Whether the patient is rotated by half a turn around z, compared with the position in the file."""
        middle = self.geometry.to_world((np.array(self.geometry.size) - 1) / 2)
        points = torch.from_numpy(middle + np.array([[0.0, 0, 0], [1.0, 0, 0]])).float()
        right, left = self.transform(points)[:, 0].tolist()
        return bool(left < right)

    def plane(self, organ: int, z: int) -> np.ndarray:
        """Returns an organ's scores on slice `z` at the target's full resolution, `[y, x]` float32, 0..1."""
        reduced = self.reduced_plane(organ, z)
        full = F.interpolate(torch.from_numpy(reduced)[None, None], scale_factor=self.stride, mode="bilinear")[0, 0]
        result: np.ndarray = full[: self.geometry.size[1], : self.geometry.size[0]].numpy()
        return result

    def reduced_plane(self, organ: int, z: int) -> np.ndarray:
        """Returns an organ's scores on slice `z` of the reduced grid, `[y', x']` float32, 0..1."""
        rows, columns = self.reduced_shape[1:]
        score = self.maps.get(organ)
        if score is None:
            return np.zeros((rows, columns), np.float32)
        return score.probabilities((slice(z, z + 1), slice(0, rows), slice(0, columns)))[0]


def reduced_shape(geometry: Geometry, stride: int) -> tuple[int, int, int]:
    """Returns the shape `(z, y', x')` of the grid with all slices and every `stride`-th pixel.

    Examples:
        >>> reduced_shape(Geometry((512, 511, 90), (0.8, 0.8, 2.5), (0.0, 0.0, 0.0)), 2)
        (90, 256, 256)
    """
    return geometry.size[2], -(-geometry.size[1] // stride), -(-geometry.size[0] // stride)
