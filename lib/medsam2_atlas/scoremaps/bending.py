"""The step `bend`: moves all maps jointly until they fit the target's intensities.

Registration by local structure does not use all information in the intensities. This step follows unified segmentation
(Ashburner and Friston, NeuroImage 2005): one smooth field moves the maps of all organs. The field maximises the likelihood of
the target's HU under a mixture of the organs and their surroundings. Each component of the mixture has a histogram that is
estimated from this target; the histograms and the field are estimated alternately.
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

from medsam2_atlas.imaging.cropped_map import Box, C, CroppedMap, box_around, lower_corner, shape_of
from medsam2_atlas.registration.adam import Adam
from medsam2_atlas.scoremaps.intensities import Intensities
from medsam2_atlas.scoremaps.maps import ScoreMaps
from medsam2_atlas.scoremaps.step import StepConfig

_MIN_BACKGROUND = 1e-3
"""The min probability of the background: keeps the logarithm of the mixture finite where maps sum to 1."""
_SLAB = 16
"""Slices that are moved at once: coordinates need more memory than maps."""


class BendConfig(StepConfig):
    """How score maps are bent."""

    rounds: int = Field(2, ge=0, description="rounds of estimating the histograms and the field; 0 leaves the maps unchanged")
    steps: int = Field(40, ge=1, description="steps of Adam per round")
    rate: float = Field(1.0, gt=0, description="mm; Adam's rate")
    cell: float = Field(6.0, gt=0, description="mm; spacing of the grid on which maps and intensities are compared")
    knots: float = Field(30.0, gt=0, description="mm; distance between the field's knots")
    stiffness: float = Field(0.005, ge=0, description="weight of the mean squared difference between knots, in mm²")
    blur: float = Field(4.0, ge=0, description="mm; standard deviation of the Gaussian that smooths the maps for the fit")
    max_evidence: float = Field(3.0, gt=0, description="natural logarithm; max log-likelihood ratio of one HU value")
    margin: float = Field(20.0, gt=0, description="mm around all maps that are compared: about the max movement of organs")
    surroundings: float = Field(12.0, gt=0, description="mm around an organ that count as its surroundings")
    near: float = Field(
        0.05, gt=0, lt=1, description="min score of a voxel from which `margin` and `surroundings` are measured"
    )


@dataclass(frozen=True)
class _Cells:
    """Maps and intensities over a part of the reduced grid, averaged over cells.

    Attributes:
        maps: probabilities, `[organ, z, y, x]`.
        organs: the organ numbers, in the order of `maps`.
        known: the share of each cell that at least one reference shows, `[z, y, x]`.
        hu: the histogram of each cell, `[bins, z, y, x]`, of sum 1.
        first: the first voxel (z, y, x) of the part on the reduced grid.
        size: the size of a cell in voxels, `[3]` (z, y, x).
        steps: the size of a cell in mm, `[3]` (z, y, x).
    """

    maps: torch.Tensor
    organs: tuple[int, ...]
    known: torch.Tensor
    hu: torch.Tensor
    first: tuple[int, ...]
    size: np.ndarray
    steps: np.ndarray


def warp_jointly(
    scores: ScoreMaps, field_of_view: CroppedMap, intensities: Intensities, config: BendConfig
) -> tuple[ScoreMaps, CroppedMap]:
    """Moves score maps and field of view by one smooth field (unified segmentation, Ashburner and Friston 2005).

    Args:
        scores: the registered score maps.
        field_of_view: the references' field of view on the same reduced grid, above 0.5 inside.
        intensities: the target's intensities on that grid.
        config: the settings of the step.

    Returns:
        The moved score maps and the moved field of view, on the same grid.
    """
    names = [k for k, score in scores.maps.items() if score.values.any()]
    if config.rounds == 0 or not names:
        return scores, field_of_view
    maps, shape, spacing = {k: scores.maps[k] for k in names}, scores.reduced_shape, scores.reduced_spacing
    box = box_around(list(maps.values()), config.margin / spacing, shape)
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
        values = torch.from_numpy(score.probabilities(box))
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
        tuple(maps),
        torch.from_numpy(known),
        torch.from_numpy(np.ascontiguousarray(hu)).reshape(bins, *known.shape),
        lower_corner(box),
        size,
        size * spacing,
    )


def _fitted(cells: _Cells, intensities: Intensities, config: BendConfig) -> torch.Tensor:
    """Returns the field over the cells, `[3, z, y, x]`: the vector (z, y, x) in mm from each cell to its source point."""
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
                maps = _interpolated(cells.maps, grid + field() / steps)
        ratios = _log_ratios(maps, cells, known if turn == 0 else torch.ones_like(known), intensities, config)
        near = _near(maps, config.margin / cells.steps, config.near).any(0)  # elsewhere the mixture is constant: all maps are 0
        counted = known & near
        likelihood, place = ratios[:, counted].exp(), grid[:, counted]
        optimiser = Adam(knots, config.rate)
        for _ in range(config.steps):
            inside = _interpolated(cells.maps, place + field()[:, counted] / steps[:, 0, 0])
            background = (1 - inside.sum(0)).clamp(min=_MIN_BACKGROUND)
            mixture = ((inside * likelihood).sum(0) + background).log()
            roughness = sum((knots.diff(dim=axis) ** 2).mean() for axis in (2, 3, 4))
            loss = config.stiffness * roughness - mixture.sum() / total
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return field().detach()


def _log_ratios(
    maps: torch.Tensor, cells: _Cells, counted: torch.Tensor, intensities: Intensities, config: BendConfig
) -> torch.Tensor:
    """Returns the mean log-likelihood ratio of organ to background in each cell, `[organ, z, y, x]`, natural logarithm."""
    near = _near(maps, config.surroundings / cells.steps, config.near)
    background = (1 - maps.sum(0)).clamp(min=0)
    hu = cells.hu.flatten(1)
    inside, outside = ((weights * near * counted).flatten(1) @ hu.T for weights in (maps**2, background.expand_as(maps)))
    table = torch.from_numpy(
        intensities.log_likelihood_ratios(inside.numpy(), outside.numpy(), cells.organs, config.max_evidence)
    )
    return (table @ hu).reshape(maps.shape)


def _near(maps: torch.Tensor, reach: np.ndarray, score: float) -> torch.Tensor:
    """Returns a bool `[organ, z, y, x]`: True if a cell at most `reach` (z, y, x) cells away exceeds `score`."""
    size = [1, *(2 * int(np.ceil(n)) + 1 for n in reach)]
    return torch.from_numpy(ndimage.maximum_filter(maps.numpy() > score, size, mode="constant"))


def _indices(spans: Sequence[slice]) -> torch.Tensor:
    """Returns the indices (z, y, x) of all voxels in a part of a grid, `[3, z, y, x]` float32."""
    axes = [torch.arange(span.start, span.stop, dtype=torch.float32) for span in spans]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _along_axes(values: ArrayLike) -> torch.Tensor:
    """Returns one value per axis (z, y, x), for arithmetic with `[3, z, y, x]`."""
    return torch.from_numpy(np.asarray(values, np.float32)).view(3, 1, 1, 1)


def _interpolated(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Interpolates values `[c, z, y, x]` at fractional indices `[3, ...]` (z, y, x); the border is repeated outside."""
    last = torch.tensor(values.shape[1:], dtype=torch.float32).sub(1).clamp(min=1)
    unit = (index.flatten(1).T / last * 2 - 1).flip(1)
    found = F.grid_sample(values[None], unit[None, None, None], padding_mode="border", align_corners=True)
    return found.reshape(-1, *index.shape[1:])


def _moved(score: C, field: torch.Tensor, cells: _Cells, shape: tuple[int, ...]) -> C:
    """Moves a map on a reduced grid of `shape` by a field over cells."""
    voxel = cells.steps / cells.size
    box = box_around([score], field.abs().amax((1, 2, 3)).numpy() / voxel + 1, shape)
    z, y, x = lower_corner(box)
    values = torch.from_numpy(score.probabilities(box))[None]
    result = np.empty(values.shape[1:], np.uint8)
    for first in range(0, len(result), _SLAB):
        index = _indices([slice(z + first, z + min(first + _SLAB, len(result))), *box[1:]])
        place = (index - _along_axes(cells.first) + 0.5) / _along_axes(cells.size) - 0.5  # in cells
        source = index + _interpolated(field, place) / _along_axes(voxel)
        part = _interpolated(values, source - _along_axes((z, y, x)))[0]
        result[first : first + _SLAB] = (part * 255).round().to(torch.uint8).numpy()
    return replace(score, values=result, lower=(z, y, x)).cropped()
