"""The step `bend`: all maps are warped jointly until they explain the target's intensities.

Registration by local structure misses some of what the intensities show. Unified segmentation (Ashburner and Friston,
NeuroImage 2005): one smooth field moves the maps of all organs, and is chosen so that the mixture of what each organ, and what
surrounds it, looks like makes the target's HU as likely as possible. The histograms of organs and surroundings in this target
tell them apart; field and histograms are found in turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from pydantic import Field
from scipy import ndimage

from medsam2_atlas.imaging.cropped_map import Box, C, CroppedMap, around, lower_corner, shape_of
from medsam2_atlas.registration.adam import Adam
from medsam2_atlas.scoremaps.intensities import Intensities
from medsam2_atlas.scoremaps.maps import ScoreMaps
from medsam2_atlas.scoremaps.step import StepConfig

_MIN_BACKGROUND = 1e-3
"""Keeps the logarithm of the mixture finite where maps sum to 1."""
_SLAB = 16
"""Slices that are moved at a time: coordinates take more memory than maps."""


class BendConfig(StepConfig):
    """How score maps are bent."""

    rounds: int = Field(2, ge=0, description="of estimating histograms and the field; 0 leaves maps as they are")
    steps: int = Field(40, ge=1, description="of Adam a round")
    rate: float = Field(1.0, gt=0, description="of Adam; mm")
    cell: float = Field(6.0, gt=0, description="mm; of the grid on which maps and intensities are compared")
    knots: float = Field(30.0, gt=0, description="mm between the field's knots")
    stiffness: float = Field(0.005, ge=0, description="weight of the mean squared difference between knots, in mm²")
    blur: float = Field(4.0, ge=0, description="mm; of the maps while they are moved")
    max_evidence: float = Field(3.0, gt=0, description="highest evidence that a HU can give, natural logarithm")
    margin: float = Field(20.0, gt=0, description="mm around all maps that are compared: organs move by up to about that much")
    surroundings: float = Field(12.0, gt=0, description="mm around an organ whose HU are compared with the organ's")
    near: float = Field(0.05, gt=0, lt=1, description="score from which on a voxel counts as the organ's, for both of these")


@dataclass(frozen=True)
class _Cells:
    """Maps and intensities of a part of the reduced grid, `[..., z, y, x]` in cells of `size` voxels (z, y, x).

    maps: probabilities `[organ, z, y, x]`. partner: see `counterparts`. known: share of each cell that a reference shows. hu:
    histograms `[bins, z, y, x]`, each of sum 1. first: the reduced grid's voxel (z, y, x) with which the part begins. steps:
    (z, y, x) of a cell in mm.
    """

    maps: torch.Tensor
    partner: np.ndarray
    known: torch.Tensor
    hu: torch.Tensor
    first: tuple[int, ...]
    size: np.ndarray
    steps: np.ndarray


def warp_jointly(
    scores: ScoreMaps, field_of_view: CroppedMap, intensities: Intensities, config: BendConfig
) -> tuple[ScoreMaps, CroppedMap]:
    """Returns score maps and field of view, moved by one smooth field.

    Args:
        scores: as registered.
        field_of_view: on the same reduced grid, above 0.5 where at least one reference's field of view reaches.
        intensities: the target's intensities on that grid.
        config: how.
    """
    names = [k for k, score in scores.maps.items() if score.values.any()]
    if config.rounds == 0 or not names:
        return scores, field_of_view
    maps, shape, spacing = {k: scores.maps[k] for k in names}, scores.reduced_shape, scores.reduced_spacing
    box = around(list(maps.values()), config.margin / spacing, shape)
    cells = _cells(maps, field_of_view, intensities, box, spacing, config)
    field = _fitted(cells, intensities, config)
    moved = {k: _moved(score, field, cells, shape) for k, score in maps.items()}
    return replace(scores, maps={**scores.maps, **moved}), _moved(field_of_view, field, cells, shape)


def _cells(
    maps: Mapping[int, CroppedMap],
    field_of_view: CroppedMap,
    intensities: Intensities,
    box: Box,
    spacing: np.ndarray,
    config: BendConfig,
) -> _Cells:
    bins = intensities.config.bins
    size = np.maximum(1, np.rint(config.cell / spacing)).astype(int)
    blur = config.blur / (size * spacing)

    def pooled(score: CroppedMap) -> np.ndarray:
        values = torch.from_numpy(score.over(box))
        result: np.ndarray = F.avg_pool3d(values[None], size.tolist(), ceil_mode=True)[0].numpy()
        return result

    known = pooled(field_of_view)
    index = np.zeros(1, np.int64)
    for n, length, voxels in zip(known.shape, shape_of(box), size, strict=True):
        index = index[..., None] * n + np.arange(length) // voxels
    counts = np.bincount((index[0] * bins + intensities.bins[box]).ravel(), minlength=known.size * bins).astype(np.float32)
    hu = counts.reshape(-1, bins).T / counts.reshape(-1, bins).sum(1)
    return _Cells(
        torch.from_numpy(np.stack([ndimage.gaussian_filter(pooled(score), blur) for score in maps.values()])),
        intensities.counterparts(list(maps)),
        torch.from_numpy(known),
        torch.from_numpy(np.ascontiguousarray(hu)).reshape(bins, *known.shape),
        lower_corner(box),
        size,
        size * spacing,
    )


def _fitted(cells: _Cells, intensities: Intensities, config: BendConfig) -> torch.Tensor:
    """Returns the field `[3, z, y, x]` over the cells, (z, y, x) in mm: a map's value at a cell comes from where it points."""
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
        evidence = _evidence(maps, cells, known if turn == 0 else torch.ones_like(known), intensities, config)
        counted = known & _near(maps, config.margin / cells.steps, config.near).any(
            0
        )  # elsewhere all maps are 0, and the mixture constant
        likelihood, place = evidence[:, counted].exp(), grid[:, counted]
        optimiser = Adam(knots, config.rate)
        for _ in range(config.steps):
            inside = _looked_up(cells.maps, place + field()[:, counted] / steps[:, 0, 0])
            background = (1 - inside.sum(0)).clamp(min=_MIN_BACKGROUND)
            mixture = ((inside * likelihood).sum(0) + background).log()
            roughness = sum((knots.diff(dim=axis) ** 2).mean() for axis in (2, 3, 4))
            loss = config.stiffness * roughness - mixture.sum() / total
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return field().detach()


def _evidence(
    maps: torch.Tensor, cells: _Cells, counted: torch.Tensor, intensities: Intensities, config: BendConfig
) -> torch.Tensor:
    """What each cell's HU say for each organ, `[organ, z, y, x]`, natural logarithm."""
    near = _near(maps, config.surroundings / cells.steps, config.near)
    nothing = (1 - maps.sum(0)).clamp(min=0)
    hu = cells.hu.flatten(1)
    inside, outside = ((weights * near * counted).flatten(1) @ hu.T for weights in (maps**2, nothing.expand_as(maps)))
    table = torch.from_numpy(
        intensities.log_likelihood_ratios(inside.numpy(), outside.numpy(), cells.partner, config.max_evidence)
    )
    return (table @ hu).reshape(maps.shape)


def _near(maps: torch.Tensor, reach: np.ndarray, score: float) -> torch.Tensor:
    """Returns where each map `[organ, z, y, x]` is above a score within so many cells (z, y, x)."""
    size = [1, *(2 * int(np.ceil(n)) + 1 for n in reach)]
    return torch.from_numpy(ndimage.maximum_filter(maps.numpy() > score, size, mode="constant"))


def _indices(spans: Sequence[slice]) -> torch.Tensor:
    """Returns the indices of all voxels of a part of a grid, float32 `[3, z, y, x]` (z, y, x)."""
    axes = [torch.arange(span.start, span.stop, dtype=torch.float32) for span in spans]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _along_axes(values: ArrayLike) -> torch.Tensor:
    """Returns one value per axis (z, y, x), for arithmetic with `[3, z, y, x]`."""
    return torch.from_numpy(np.asarray(values, np.float32)).view(3, 1, 1, 1)


def _looked_up(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Returns values `[c, z, y, x]` at fractional indices `[3, ...]` (z, y, x); at the border where they lie outside."""
    last = torch.tensor(values.shape[1:], dtype=torch.float32).sub(1).clamp(min=1)
    unit = (index.flatten(1).T / last * 2 - 1).flip(1)
    found = F.grid_sample(values[None], unit[None, None, None], padding_mode="border", align_corners=True)
    return found.reshape(-1, *index.shape[1:])


def _moved(score: C, field: torch.Tensor, cells: _Cells, shape: tuple[int, ...]) -> C:
    """Returns a map on a reduced grid of `shape`, moved by a field over cells."""
    voxel = cells.steps / cells.size
    box = around([score], field.abs().amax((1, 2, 3)).numpy() / voxel + 1, shape)
    z, y, x = lower_corner(box)
    values = torch.from_numpy(score.over(box))[None]
    result = np.empty(values.shape[1:], np.uint8)
    for first in range(0, len(result), _SLAB):
        index = _indices([slice(z + first, z + min(first + _SLAB, len(result))), *box[1:]])
        place = (index - _along_axes(cells.first) + 0.5) / _along_axes(cells.size) - 0.5  # in cells
        source = index + _looked_up(field, place) / _along_axes(voxel)
        part = _looked_up(values, source - _along_axes((z, y, x)))[0]
        result[first : first + _SLAB] = (part * 255).round().to(torch.uint8).numpy()
    return replace(score, values=result, lower=(z, y, x)).cropped()
