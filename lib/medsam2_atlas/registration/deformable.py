"""Deformable registration: coupled-convex discrete optimisation, made consistent both ways, refined by Adam.

After Siebert, Hansen and Heinrich, "Fast 3D registration with accurate optimisation and little learning for
Learn2Reg 2021", and its ConvexAdam form of 2024. Displacements here are in voxels of the fixed grid, `[3, z, y, x]` in
(z, y, x) order, until they are turned into millimetres at the end.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from medsam2_atlas.base.progress import Progress, part, silent
from medsam2_atlas.registration.adam import Adam
from medsam2_atlas.registration.box_mean import box_mean
from medsam2_atlas.registration.config import RegistrationConfig
from medsam2_atlas.registration.features import deformable_features
from medsam2_atlas.registration.transform import Affine, Displacement, Transform, grid_points, sample
from medsam2_atlas.registration.work_image import WorkImage

_MOST_FOLDING, _MOST_SMOOTHINGS = 0.004, 12
_COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def deform(
    fixed: WorkImage, moving: WorkImage, start: Affine, config: RegistrationConfig, progress: Progress = silent
) -> Transform:
    """The transform from fixed to moving world points that refines an affine one."""
    fixed = fixed.at_spacing(config.spacing)
    points = fixed.points()
    hu, seen = moving.warped(start(points))
    moving_seen = -F.max_pool3d(-seen.float()[None, None], 3, 1, 1)[0]
    fixed_seen = fixed.valid.float()[None]
    wanted = deformable_features(fixed.hu, fixed, points, config.class_weight)
    offered = deformable_features(hu, moving, start(points), config.class_weight)
    if config.reach > 0 and min(fixed.shape) >= 2 * config.cell:
        with torch.no_grad():
            there = _coupled_convex(wanted, offered, moving_seen, config)
            progress("registration", 0.2)
            back = _coupled_convex(offered, wanted, fixed_seen, config)
            field = _consistent(there / config.cell, back / config.cell) * config.cell
    else:
        field = torch.zeros(3, *[max(1, n // config.cell) for n in fixed.shape])
    field = _refine(wanted, offered, fixed_seen, moving_seen, field, config, part(progress, 0.4, 1.0))
    field = F.interpolate(field[None], size=fixed.shape, mode="trilinear")[0]
    millimetres = field.flip(0) * fixed.spacing  # (z, y, x) voxels to (x, y, z) mm
    return Transform((_unfolded(Displacement(millimetres, fixed.origin, fixed.spacing)), start))


def _unfolded(map: Displacement) -> Displacement:
    """A field that folds in hardly a voxel: smoothed until it does, which few fields need."""
    for _ in range(_MOST_SMOOTHINGS):
        if map.folding() <= _MOST_FOLDING:
            break
        map = replace(map, field=box_mean(box_mean(map.field)))
    return map


def _coupled_convex(
    wanted: torch.Tensor, offered: torch.Tensor, seen: torch.Tensor, config: RegistrationConfig
) -> torch.Tensor:
    """Displacement of each cell, found among `(2 reach + 1)³` shifts by alternating similarity and smoothness."""
    cell, reach = config.cell, config.reach
    f, m, w = F.avg_pool3d(wanted, cell), F.avg_pool3d(offered, cell), F.avg_pool3d(seen, cell)
    shape = f.shape[1:]
    width = 2 * reach + 1
    m, w = F.pad(m, (reach,) * 6), F.pad(w, (reach,) * 6)
    shifts = torch.cartesian_prod(*[torch.arange(width)] * 3)
    cost = torch.empty(len(shifts), *shape)
    for n, (i, j, k) in enumerate(shifts.tolist()):
        part = (slice(i, i + shape[0]), slice(j, j + shape[1]), slice(k, k + shape[2]))
        error = (f - m[(slice(None), *part)]).square_().sum(0)
        cost[n] = torch.where(w[(0, *part)] > 0.5, error, torch.nan)
    usual = float(torch.nanmedian(cost[len(cost) // 2]))
    cost = torch.nan_to_num(cost, nan=usual if usual == usual else 0.0)
    cost = box_mean(box_mean(cost))
    flat = cost.reshape(len(shifts), -1)
    steps = (shifts - reach).float()
    length = (steps**2).sum(1, keepdim=True)

    def chosen(total: torch.Tensor) -> torch.Tensor:
        return box_mean(steps[total.argmin(0)].T.reshape(3, *shape))

    field = chosen(flat)
    for coupling in _COUPLING:
        field = chosen(flat + coupling * (length - 2 * steps @ field.reshape(3, -1)))
    return field * cell


def _consistent(there: torch.Tensor, back: torch.Tensor, iterations: int = 12) -> torch.Tensor:
    """Forward field in cells, drawn towards the inverse of the backward one and vice versa."""
    zero = torch.zeros(3)
    grid = grid_points(there.shape[1:], zero, 1.0)

    def follow(field: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
        return sample(field, grid + along.flip(0).movedim(0, -1), zero, 1.0)

    for _ in range(iterations):
        there, back = (there - follow(back, there)) / 2, (back - follow(there, back)) / 2
    return there


def _refine(
    wanted: torch.Tensor,
    offered: torch.Tensor,
    fixed_seen: torch.Tensor,
    moving_seen: torch.Tensor,
    start: torch.Tensor,
    config: RegistrationConfig,
    progress: Progress,
) -> torch.Tensor:
    """Adam on a field of half resolution, smoothed three times before it is applied."""
    stride = 2 if min(wanted.shape[1:]) >= 16 else 1
    f, m = F.avg_pool3d(wanted, stride), F.avg_pool3d(offered, stride)
    both = torch.cat([m, F.avg_pool3d(moving_seen, stride)])
    f_seen = F.avg_pool3d(fixed_seen, stride)[0]
    shape = f.shape[1:]
    field = (F.interpolate(start[None], size=shape, mode="trilinear")[0] / stride).clone().requires_grad_(True)
    optimiser = Adam(field, 1.0)
    zero = torch.zeros(3)
    grid = grid_points(shape, zero, 1.0)
    smooth = field
    for step in range(max(1, config.adam_steps)):
        smooth = box_mean(box_mean(box_mean(field)))
        if config.adam_steps == 0:
            break
        values = sample(both, grid + smooth.flip(0).movedim(0, -1), zero, 1.0)
        weight = values[-1] * f_seen
        error = (((values[:-1] - f) ** 2).sum(0) * weight).sum() / weight.sum().clamp(min=1)
        roughness = sum((smooth.diff(dim=axis) ** 2).mean() for axis in (1, 2, 3))
        (error + config.smoothness * roughness).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        progress("registration", (step + 1) / config.adam_steps)
    return smooth.detach() * stride
