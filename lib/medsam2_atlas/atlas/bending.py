"""Score maps bent together until they explain the target's intensities: what registration by local structure has missed.

Unified segmentation (Ashburner and Friston, NeuroImage 2005): one smooth field moves the maps of all organs, and is chosen so
that the mixture of what each organ, and what surrounds it, looks like makes the target's HU as likely as possible. Organs and
surroundings are told apart by the histograms that they have in this target; field and histograms are found in turns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from medsam2_atlas.atlas.intensities import BINS, evidence_table
from medsam2_atlas.atlas.maps import ScoreMap, ScoreMaps, around
from medsam2_atlas.masks import occupied

_MARGIN_MM = 20.0
_NEAR_MM = 12.0
"""How far around an organ its surroundings are looked at."""
_NEAR = 0.05
_LEAST_BACKGROUND = 1e-3


class BendingConfig(BaseModel):
    """How score maps are bent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(2, ge=0, description="of estimating histograms and the field; 0 leaves maps as registered")
    steps: int = Field(25, ge=1, description="of Adam a round")
    rate: float = Field(1.5, gt=0, description="of Adam; mm")
    cell: float = Field(6.0, gt=0, description="mm; of the grid on which maps and intensities are compared")
    knots: float = Field(30.0, gt=0, description="mm between the field's knots")
    stiffness: float = Field(0.007, ge=0, description="weight of the mean squared difference between knots, in mm²")
    blur: float = Field(4.0, ge=0, description="mm; of the maps while they are moved")
    most: float = Field(3.0, gt=0, description="highest evidence that a HU can give, natural logarithm")


@dataclass(frozen=True)
class _Cells:
    """Maps and intensities of a part of the reduced grid, `[..., z, y, x]` in cells of `size` voxels (z, y, x).

    maps: probabilities `[organ, z, y, x]`. known: share of each cell that a reference shows. hu: histograms
    `[BINS, z, y, x]`, each of sum 1. steps: (z, y, x) of a cell in mm.
    """

    maps: torch.Tensor
    known: torch.Tensor
    hu: torch.Tensor
    size: np.ndarray
    steps: np.ndarray


def bent(scores: ScoreMaps, known: ScoreMap, bins: np.ndarray, config: BendingConfig) -> tuple[ScoreMaps, ScoreMap]:
    """Score maps, and where references know anything, moved by one smooth field.

    Args:
        scores: as registered.
        known: on the same reduced grid, above 0.5 where at least one reference's field of view reaches.
        bins: of the target's HU, on that grid; see `bins_of`.
        config: how.
    """
    names = [k for k, score in scores.maps.items() if score.values.any()]
    if config.rounds == 0 or not names:
        return scores, known
    spacing = scores.reduced_spacing
    box = around([scores.maps[k] for k in names], _MARGIN_MM / spacing, scores.reduced_shape)
    cells = _cells([scores.maps[k] for k in names], known, bins, box, spacing, config)
    field = _fitted(cells, config)
    first = [span.start for span in box]
    moved = {k: _moved(scores.maps[k], field, first, cells, scores.reduced_shape) for k in names}
    return replace(scores, maps={**scores.maps, **moved}), _moved(known, field, first, cells, scores.reduced_shape)


def _cells(
    maps: list[ScoreMap], known: ScoreMap, bins: np.ndarray, box: tuple[slice, ...], spacing: np.ndarray, config: BendingConfig
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
        torch.from_numpy(seen),
        torch.from_numpy(np.ascontiguousarray(hu)).reshape(BINS, *shape),
        size,
        size * spacing,
    )


def _fitted(cells: _Cells, config: BendingConfig) -> torch.Tensor:
    """The field `[3, z, y, x]` over the cells, (z, y, x) in mm: a map's value at a cell comes from where it points."""
    shape = cells.known.shape
    lattice = [max(2, round(n * step / config.knots)) for n, step in zip(shape, cells.steps, strict=True)]
    knots = torch.zeros(1, 3, *lattice, requires_grad=True)
    counted = cells.known > 0.5
    total = float(cells.maps.sum()) + 1
    maps = cells.maps
    for turn in range(config.rounds):
        likelihood = _evidence(maps, cells, counted if turn == 0 else torch.ones_like(counted), config).exp()
        optimiser = torch.optim.Adam([knots], lr=config.rate)
        for _ in range(config.steps):
            maps = _pulled(cells.maps, F.interpolate(knots, size=shape, mode="trilinear")[0], cells.steps)
            background = (1 - maps.sum(0)).clamp(min=_LEAST_BACKGROUND)
            mixture = ((maps * likelihood).sum(0) + background).log()
            roughness = sum((knots.diff(dim=axis) ** 2).mean() for axis in (2, 3, 4))
            optimiser.zero_grad()
            loss = config.stiffness * roughness - (mixture * counted).sum() / total
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        maps = maps.detach()
    return F.interpolate(knots.detach(), size=shape, mode="trilinear")[0]


def _evidence(maps: torch.Tensor, cells: _Cells, counted: torch.Tensor, config: BendingConfig) -> torch.Tensor:
    """What each cell's HU say for each organ, `[organ, z, y, x]`, natural logarithm."""
    width = [2 * int(np.ceil(_NEAR_MM / step)) + 1 for step in cells.steps]
    near = F.max_pool3d(maps, width, 1, [n // 2 for n in width]) > _NEAR
    nothing = (1 - maps.sum(0)).clamp(min=0)
    hu = cells.hu.flatten(1)
    inside, outside = ((weights * near * counted).flatten(1) @ hu.T for weights in (maps**2, nothing.expand_as(maps)))
    table = torch.from_numpy(evidence_table(inside.numpy(), outside.numpy(), config.most))
    return (table @ hu).reshape(maps.shape)


def _pulled(maps: torch.Tensor, field: torch.Tensor, steps: np.ndarray) -> torch.Tensor:
    """Maps `[organ, z, y, x]` looked up where a field in mm points."""
    shape = maps.shape[1:]
    grid = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij"))
    return _looked_up(maps, grid + field / torch.from_numpy(steps).float().view(3, 1, 1, 1))


def _looked_up(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Values `[c, z, y, x]` at fractional indices `[3, ...]` (z, y, x); at the border where they lie outside."""
    last = torch.tensor(values.shape[1:], dtype=torch.float32).sub(1).clamp(min=1).view(3, 1, 1, 1)
    unit = (index / last * 2 - 1).flip(0).movedim(0, -1)
    return F.grid_sample(values[None], unit[None], padding_mode="border", align_corners=True)[0]


def _moved(score: ScoreMap, field: torch.Tensor, first: list[int], cells: _Cells, shape: tuple[int, int, int]) -> ScoreMap:
    """A score map moved by a field over cells, of which the first begins at voxel `first`."""
    voxel = torch.from_numpy(cells.steps / cells.size).float().view(3, 1, 1, 1)
    furthest = field.abs().amax((1, 2, 3)).numpy() / voxel.flatten().numpy()
    box = around([score], furthest + 1, shape)
    axes = [torch.arange(span.start, span.stop, dtype=torch.float32) for span in box]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    size, begin = (torch.as_tensor(np.array(v), dtype=torch.float32).view(3, 1, 1, 1) for v in (cells.size, first))
    shift = _looked_up(field, (grid - begin + 0.5) / size - 0.5) / voxel
    low = torch.tensor([span.start for span in box]).view(3, 1, 1, 1)
    values = _looked_up(torch.from_numpy(score.over(box))[None], grid - low + shift)[0]
    result = (values * 255).round().to(torch.uint8).numpy()
    inner = occupied(result)
    if inner is None:
        return replace(score, values=np.zeros((0, 0, 0), np.uint8), low=(0, 0, 0))
    z, y, x = (b.start + i.start for b, i in zip(box, inner, strict=True))
    return replace(score, values=np.ascontiguousarray(result[inner]), low=(z, y, x))
