"""The step `warp`: warps the maps of the common space to a target's grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import Field

from medsam2_atlas.atlas.atlas import ProbabilityMap
from medsam2_atlas.atlas.reference import MAP_SPACING, map_shape
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.cropped_map import CroppedMap
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Geometry
from medsam2_atlas.registration import Transform, WorkImage, sample
from medsam2_atlas.scoremaps.alignment import Alignment
from medsam2_atlas.scoremaps.intensities import HistogramConfig, Intensities
from medsam2_atlas.scoremaps.maps import ScoreMap, ScoreMaps, reduced_shape
from medsam2_atlas.scoremaps.step import StepConfig
from medsam2_atlas.scoremaps.voting import Votes

_COARSE = 4
"""Distance in pixels of the points that determine which part of a slice a map can reach."""
_MAX_STRETCH = 2
"""Max stretch of the transform between two of these points."""
_CHUNK = 1 << 20
"""Points that are transformed at once."""
_PROBABLE = 0.5
"""Share of an organ's max probability above which a voxel counts as the organ."""
_SAMPLES = 2000
"""Approximate number of voxels that determine which share of an organ lies inside the scan."""


class WarpConfig(StepConfig):
    """How maps are warped to a target.

    If the step is disabled, the target must already lie on the grid of the atlas' maps.
    """

    pixel: float = Field(
        2.0,
        gt=0,
        description="mm; approximate pixel size of score maps: slices are reduced to it, because score maps are smooth",
    )


@dataclass(frozen=True)
class Warped:
    """A target's score maps, and the inputs of the steps that follow.

    Attributes:
        alignment: the target's alignment.
        registered: the score maps that registration and label fusion made.
        scores: the score maps after the last step.
        field_of_view: the references' joint field of view on the same reduced grid: above 0.5 where at least one reference
            has voxels.
        intensities: the target's intensities, if a step has computed them.
        growth: for organs that the step `restore` has enlarged, ln of the predicted over the registered volume.
    """

    alignment: Alignment
    registered: ScoreMaps
    scores: ScoreMaps
    field_of_view: CroppedMap
    intensities: Intensities | None = None
    growth: Mapping[int, float] = field(default_factory=dict)

    def measured_intensities(self, config: HistogramConfig) -> Intensities:
        """Returns the target's intensities on the reduced grid; computes them if no earlier step has."""
        return self.intensities or Intensities.of(self.alignment.target, self.registered, organ_table().pairs, config)


def warp(votes: Votes, config: WarpConfig, progress: Progress = silent) -> Warped:
    """Warps votes to the target's grid.

    Args:
        votes: the votes in the common space.
        config: the settings of the step.
        progress: called with the stage and the fraction completed.
    """
    alignment, geometry = votes.alignment, votes.alignment.target.geometry
    stride = max(1, int(config.pixel / min(geometry.spacing[:2])))
    maps = [*votes.maps.values(), votes.field_of_view]
    *organs, field_of_view = _warped(maps, alignment, stride, config.pixel, progress)
    return _scored(votes, dict(zip(votes.maps, organs, strict=True)), field_of_view, stride)


def on_map_grid(votes: Votes) -> Warped:
    """Uses the votes without warping, for a target on the grid of the atlas' maps.

    Raises:
        InputError: the target does not lie on that grid.
    """
    target, template = votes.alignment.target, votes.alignment.atlas.template
    if not target.geometry.matches(map_grid(template)):
        raise InputError(
            target.source,
            "does not lie on the grid of the atlas' maps, so they have to be warped onto it.",
            "Set `enabled: true` for the step `warp` in configs/fusion.yaml.",
        )
    organs = {k: organ.on_grid(template) for k, organ in votes.maps.items()}
    return _scored(votes, organs, votes.field_of_view.on_grid(template), 1)


def map_grid(template: WorkImage) -> Geometry:
    """Returns the grid of an atlas' probability maps, given its template."""
    z, y, x = map_shape(template)
    left, front, lower = template.origin.tolist()
    return Geometry((x, y, z), (MAP_SPACING,) * 3, (left, front, lower))


def _scored(votes: Votes, organs: Mapping[int, CroppedMap], field_of_view: CroppedMap, stride: int) -> Warped:
    alignment, geometry = votes.alignment, votes.alignment.target.geometry
    maps = {}
    for k, organ in organs.items():
        visible = _visible_share(votes.maps[k], alignment.inverse, geometry)
        maps[k] = ScoreMap(organ.values, organ.lower, visible)
    scores = ScoreMaps(maps, geometry, stride, alignment.transform, alignment.inverse, sex=votes.sex)
    return Warped(alignment, scores, scores, field_of_view)


def _warped(
    maps: Sequence[ProbabilityMap], alignment: Alignment, stride: int, pixel: float, progress: Progress
) -> list[CroppedMap]:
    """Returns maps of the common space on a target's slices, at every `stride`-th pixel (about every `pixel` mm)."""
    geometry = alignment.target.geometry
    shape = reduced_shape(geometry, stride)
    dense = [np.zeros(shape, np.uint8) for _ in maps]
    thick = max(1, _CHUNK // (shape[1] * shape[2]))
    for first in range(0, shape[0], thick):
        planes = range(first, min(first + thick, shape[0]))
        common = alignment.transform(_reduced_points(geometry, stride, planes))
        for values, each in zip(dense, maps, strict=True):
            values[planes.start : planes.stop] = _sampled(each, common, pixel)
        progress("score maps", planes.stop / shape[0])
    cropped = []
    while dense:  # free each dense map as soon as it is cropped
        cropped.append(CroppedMap(dense.pop(0), (0, 0, 0)).cropped())
    return cropped


def _reduced_points(geometry: Geometry, stride: int, planes: range) -> torch.Tensor:
    _, rows, columns = reduced_shape(geometry, stride)
    middle = (stride - 1) / 2  # a reduced pixel lies in the middle of its block
    z, y, x = torch.meshgrid(
        torch.tensor(list(planes), dtype=torch.float32),
        torch.arange(rows) * float(stride) + middle,
        torch.arange(columns) * float(stride) + middle,
        indexing="ij",
    )
    matrix = torch.from_numpy(geometry.matrix).float()
    return torch.stack([x, y, z], -1) @ matrix.T + torch.tensor(geometry.origin, dtype=torch.float32)


def _sampled(organ: ProbabilityMap, points: torch.Tensor, pixel: float) -> np.ndarray:
    """Returns a map's values `[z, y, x]`, 0..255, at points `[z, y, x, 3]`; samples only the box that the map can reach.

    `pixel` is the distance between neighbouring points in mm.
    """
    values = np.zeros(points.shape[:-1], np.uint8)
    origin = torch.from_numpy(organ.origin)
    end = origin + torch.tensor(organ.values.shape[::-1]) * MAP_SPACING
    some = points[:, ::_COARSE, ::_COARSE]
    reach = MAP_SPACING + _MAX_STRETCH * _COARSE * pixel  # max distance between two of these points after the transform
    near = ((some > origin - reach) & (some < end + reach)).all(-1).any(0)
    rows, columns = torch.nonzero(near.any(1)).flatten(), torch.nonzero(near.any(0)).flatten()
    if len(rows):
        y = slice(max(0, int(rows[0]) - 1) * _COARSE, (int(rows[-1]) + 2) * _COARSE)
        x = slice(max(0, int(columns[0]) - 1) * _COARSE, (int(columns[-1]) + 2) * _COARSE)
        found = sample(organ.as_tensor(), points[:, y, x].contiguous(), origin, MAP_SPACING, padding="zeros")[0]
        values[:, y, x] = (found * 255).round().to(torch.uint8).numpy()
    return values


def _visible_share(organ: ProbabilityMap, to_target: Transform, geometry: Geometry) -> float:
    """Returns the share of the organ's probable voxels in the common space that lie on the target's grid."""
    where = np.argwhere(organ.values > _PROBABLE * organ.values.max())
    if not len(where):
        return 0.0
    where = where[:: max(1, len(where) // _SAMPLES)]
    points = torch.from_numpy(where[:, ::-1].astype(np.float32) * MAP_SPACING + organ.origin)
    index = geometry.to_index(to_target(points).numpy())
    inside = ((index >= -0.5) & (index <= np.array(geometry.size) - 0.5)).all(1)
    return float(inside.mean())
