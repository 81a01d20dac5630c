"""Score maps bent together until they explain the target's intensities: what registration by local structure has missed.

Unified segmentation (Ashburner and Friston, NeuroImage 2005): one smooth field moves the maps of all organs, and is chosen so
that the mixture of what each organ, and what surrounds it, looks like makes the target's HU as likely as possible. Organs and
surroundings are told apart by the histograms that they have in this target; field and histograms are found in turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from medsam2_atlas.registration.adam import Adam
from medsam2_atlas.scoremaps.intensities import BINS, counterparts, evidence_table
from medsam2_atlas.scoremaps.maps import ScoreMap, ScoreMaps, around

_MARGIN_MM = 20.0
_NEAR_MM = 12.0
"""How far around an organ its surroundings are looked at."""
_NEAR = 0.05
_LEAST_BACKGROUND = 1e-3
_SLAB = 16
"""Slices that are moved at a time: coordinates take more memory than maps."""


class BendingConfig(BaseModel):
    """How score maps are bent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(2, ge=0, description="of estimating histograms and the field; 0 leaves maps as registered")
    steps: int = Field(40, ge=1, description="of Adam a round")
    rate: float = Field(1.0, gt=0, description="of Adam; mm")
    cell: float = Field(6.0, gt=0, description="mm; of the grid on which maps and intensities are compared")
    knots: float = Field(30.0, gt=0, description="mm between the field's knots")
    stiffness: float = Field(0.005, ge=0, description="weight of the mean squared difference between knots, in mm²")
    blur: float = Field(4.0, ge=0, description="mm; of the maps while they are moved")
    most: float = Field(3.0, gt=0, description="highest evidence that a HU can give, natural logarithm")


@dataclass(frozen=True)
class _Cells:
    """Maps and intensities of a part of the reduced grid, `[..., z, y, x]` in cells of `size` voxels (z, y, x).

    maps: probabilities `[organ, z, y, x]`. partner: see `counterparts`. known: share of each cell that a reference shows. hu:
    histograms `[BINS, z, y, x]`, each of sum 1. first: the reduced grid's voxel (z, y, x) with which the part begins. steps:
    (z, y, x) of a cell in mm.
    """

    maps: torch.Tensor
    partner: np.ndarray
    known: torch.Tensor
    hu: torch.Tensor
    first: tuple[int, ...]
    size: np.ndarray
    steps: np.ndarray


def bent(
    scores: ScoreMaps, known: ScoreMap, bins: np.ndarray, pairs: Sequence[tuple[int, int]], config: BendingConfig
) -> tuple[ScoreMaps, ScoreMap]:
    """Score maps, and where references know anything, moved by one smooth field.

    Args:
        scores: as registered.
        known: on the same reduced grid, above 0.5 where at least one reference's field of view reaches.
        bins: of the target's HU, on that grid; see `bins_of`.
        pairs: labels of organs that look alike.
        config: how.
    """
    names = [k for k, score in scores.maps.items() if score.values.any()]
    if config.rounds == 0 or not names:
        return scores, known
    maps, shape, spacing = [scores.maps[k] for k in names], scores.reduced_shape, scores.reduced_spacing
    box = around(maps, _MARGIN_MM / spacing, shape)
    cells = _cells(maps, counterparts(names, pairs), known, bins, box, spacing, config)
    field = _fitted(cells, config)
    moved = {k: _moved(score, field, cells, shape) for k, score in zip(names, maps, strict=True)}
    return replace(scores, maps={**scores.maps, **moved}), _moved(known, field, cells, shape)


def _cells(
    maps: list[ScoreMap],
    partner: np.ndarray,
    known: ScoreMap,
    bins: np.ndarray,
    box: tuple[slice, ...],
    spacing: np.ndarray,
    config: BendingConfig,
) -> _Cells:
    size = np.maximum(1, np.rint(config.cell / spacing)).astype(int)
    blur = config.blur / (size * spacing)

    def pooled(score: ScoreMap) -> np.ndarray:
        values = torch.from_numpy(score.over(box))
        result: np.ndarray = F.avg_pool3d(values[None], size.tolist(), ceil_mode=True)[0].numpy()
        return result

    seen = pooled(known)
    shape = seen.shape
    index = np.zeros(1, np.int64)
    for n, span, voxels in zip(shape, box, size, strict=True):
        index = index[..., None] * n + np.arange(span.stop - span.start) // voxels
    counts = np.bincount((index[0] * BINS + bins[box]).ravel(), minlength=seen.size * BINS).astype(np.float32)
    hu = counts.reshape(-1, BINS).T / counts.reshape(-1, BINS).sum(1)
    return _Cells(
        torch.from_numpy(np.stack([ndimage.gaussian_filter(pooled(score), blur) for score in maps])),
        partner,
        torch.from_numpy(seen),
        torch.from_numpy(np.ascontiguousarray(hu)).reshape(BINS, *shape),
        tuple(span.start for span in box),
        size,
        size * spacing,
    )


def _fitted(cells: _Cells, config: BendingConfig) -> torch.Tensor:
    """The field `[3, z, y, x]` over the cells, (z, y, x) in mm: a map's value at a cell comes from where it points."""
    shape = cells.known.shape
    lattice = [max(2, round(n * step / config.knots)) for n, step in zip(shape, cells.steps, strict=True)]
    knots = torch.zeros(1, 3, *lattice, requires_grad=True)
    grid, steps = _indices([slice(0, n) for n in shape]), _along_axes(cells.steps)
    known = cells.known > 0.5
    total = float(cells.maps.sum()) + 1
    maps = cells.maps

    def field() -> torch.Tensor:
        return F.interpolate(knots, size=shape, mode="trilinear")[0]

    for turn in range(config.rounds):
        if turn > 0:
            with torch.no_grad():
                maps = _looked_up(cells.maps, grid + field() / steps)
        evidence = _evidence(maps, cells, known if turn == 0 else torch.ones_like(known), config)
        counted = known & _near(maps, _MARGIN_MM / cells.steps).any(0)  # elsewhere all maps are 0, and the mixture constant
        likelihood, place = evidence[:, counted].exp(), grid[:, counted]
        optimiser = Adam(knots, config.rate)
        for _ in range(config.steps):
            inside = _looked_up(cells.maps, place + field()[:, counted] / steps[:, 0, 0])
            background = (1 - inside.sum(0)).clamp(min=_LEAST_BACKGROUND)
            mixture = ((inside * likelihood).sum(0) + background).log()
            roughness = sum((knots.diff(dim=axis) ** 2).mean() for axis in (2, 3, 4))
            loss = config.stiffness * roughness - mixture.sum() / total
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return field().detach()


def _evidence(maps: torch.Tensor, cells: _Cells, counted: torch.Tensor, config: BendingConfig) -> torch.Tensor:
    """What each cell's HU say for each organ, `[organ, z, y, x]`, natural logarithm."""
    near = _near(maps, _NEAR_MM / cells.steps)
    nothing = (1 - maps.sum(0)).clamp(min=0)
    hu = cells.hu.flatten(1)
    inside, outside = ((weights * near * counted).flatten(1) @ hu.T for weights in (maps**2, nothing.expand_as(maps)))
    table = torch.from_numpy(evidence_table(inside.numpy(), outside.numpy(), cells.partner, config.most))
    return (table @ hu).reshape(maps.shape)


def _near(maps: torch.Tensor, reach: np.ndarray) -> torch.Tensor:
    """Where each map `[organ, z, y, x]` is above a few percent within so many cells (z, y, x)."""
    size = [1, *(2 * int(np.ceil(n)) + 1 for n in reach)]
    return torch.from_numpy(ndimage.maximum_filter(maps.numpy() > _NEAR, size, mode="constant"))


def _indices(spans: Sequence[slice]) -> torch.Tensor:
    """Those of all voxels of a part of a grid, float32 `[3, z, y, x]` (z, y, x)."""
    axes = [torch.arange(span.start, span.stop, dtype=torch.float32) for span in spans]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _along_axes(values: ArrayLike) -> torch.Tensor:
    """One value per axis (z, y, x), to be reckoned with `[3, z, y, x]`."""
    return torch.from_numpy(np.asarray(values, np.float32)).view(3, 1, 1, 1)


def _looked_up(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Values `[c, z, y, x]` at fractional indices `[3, ...]` (z, y, x); at the border where they lie outside."""
    last = torch.tensor(values.shape[1:], dtype=torch.float32).sub(1).clamp(min=1)
    unit = (index.flatten(1).T / last * 2 - 1).flip(1)
    found = F.grid_sample(values[None], unit[None, None, None], padding_mode="border", align_corners=True)
    return found.reshape(-1, *index.shape[1:])


def _moved(score: ScoreMap, field: torch.Tensor, cells: _Cells, shape: tuple[int, ...]) -> ScoreMap:
    """A score map on a reduced grid of `shape`, moved by a field over cells."""
    voxel = cells.steps / cells.size
    box = around([score], field.abs().amax((1, 2, 3)).numpy() / voxel + 1, shape)
    z, y, x = (span.start for span in box)
    values = torch.from_numpy(score.over(box))[None]
    result = np.empty(values.shape[1:], np.uint8)
    for first in range(0, len(result), _SLAB):
        index = _indices([slice(z + first, z + min(first + _SLAB, len(result))), *box[1:]])
        place = (index - _along_axes(cells.first) + 0.5) / _along_axes(cells.size) - 0.5  # in cells
        source = index + _looked_up(field, place) / _along_axes(voxel)
        part = _looked_up(values, source - _along_axes((z, y, x)))[0]
        result[first : first + _SLAB] = (part * 255).round().to(torch.uint8).numpy()
    return replace(score, values=result, low=(z, y, x)).cropped()
