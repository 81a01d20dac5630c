"""Deformable registration: coupled-convex discrete optimisation, made inverse-consistent, then refined by Adam.

It follows Siebert, Hansen and Heinrich, "Fast 3D registration with accurate optimisation and little learning for Learn2Reg
2021", and ConvexAdam (Siebert et al. 2024). In this module, displacements are `[3, z, y, x]`, in voxels of the fixed grid and
in the order (z, y, x); `deform` converts them to millimetres at its end.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from medsam2_atlas.base.progress import Progress, part, silent
from medsam2_atlas.registration.adam import Adam
from medsam2_atlas.registration.box_mean import box_mean
from medsam2_atlas.registration.config import DeformableConfig, RegistrationConfig
from medsam2_atlas.registration.features import deformable_features
from medsam2_atlas.registration.transform import Displacement, Map, Transform, grid_points, sample
from medsam2_atlas.registration.work_image import WorkImage


def deform(
    fixed: WorkImage, moving: WorkImage, start: Map, config: RegistrationConfig, progress: Progress = silent
) -> Transform:
    """Refines a map by a displacement field.

    Args:
        fixed: the fixed image.
        moving: the moving image.
        start: the map from fixed to moving world points (x, y, z in mm): an affine map, or a transform.
        config: the registration parameters.
        progress: called with the fraction completed.

    Returns:
        The displacement field on the fixed grid, followed by the map.
    """
    fixed = fixed.at_spacing(config.spacing)
    points = fixed.points()
    hu, seen = moving.warped(start(points))
    moving_seen = -F.max_pool3d(-seen.float()[None, None], 3, 1, 1)[0]
    fixed_seen = fixed.valid.float()[None]
    target = deformable_features(fixed.hu, fixed, points, config)
    source = deformable_features(hu, moving, start(points), config)
    if config.reach > 0 and min(fixed.shape) >= 2 * config.cell:
        with torch.no_grad():
            forward = _coupled_convex(target, source, moving_seen, config)
            progress("registration", 0.2)
            backward = _coupled_convex(source, target, fixed_seen, config)
            rounds = config.deformable.inverse_rounds
            field = _consistent(forward / config.cell, backward / config.cell, rounds) * config.cell
    else:
        field = torch.zeros(3, *[max(1, n // config.cell) for n in fixed.shape])
    field = _refine((target, source), (fixed_seen, moving_seen), field, config, part(progress, 0.4, 1.0))
    field = F.interpolate(field[None], size=fixed.shape, mode="trilinear")[0]
    millimetres = field.flip(0) * fixed.spacing  # (z, y, x) voxels to (x, y, z) mm
    found = _unfolded(Displacement(millimetres, fixed.origin, fixed.spacing), config.deformable)
    return Transform((found, *(start.maps if isinstance(start, Transform) else (start,))))


def _unfolded(map: Displacement, config: DeformableConfig) -> Displacement:
    """Smooths a field until at most the share `max_folding` of its cells folds. Few fields need it."""
    for _ in range(config.max_smoothings):
        if map.folding() <= config.max_folding:
            break
        map = replace(map, field=_smoothed(map.field, 2))
    return map


def _smoothed(values: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        values = box_mean(values)
    return values


def _coupled_convex(target: torch.Tensor, source: torch.Tensor, seen: torch.Tensor, config: RegistrationConfig) -> torch.Tensor:
    """Returns the displacement of each cell, chosen among `(2 reach + 1)³` shifts by alternating similarity and smoothness."""
    cell, reach = config.cell, config.reach
    f, m, w = F.avg_pool3d(target, cell), F.avg_pool3d(source, cell), F.avg_pool3d(seen, cell)
    shape = f.shape[1:]
    width = 2 * reach + 1
    m, w = F.pad(m, (reach,) * 6), F.pad(w, (reach,) * 6)
    shifts = torch.cartesian_prod(*[torch.arange(width)] * 3)
    cost = torch.empty(len(shifts), *shape)
    for n, (i, j, k) in enumerate(shifts.tolist()):
        part = (slice(i, i + shape[0]), slice(j, j + shape[1]), slice(k, k + shape[2]))
        error = (f - m[(slice(None), *part)]).square_().sum(0)
        cost[n] = torch.where(w[(0, *part)] > config.deformable.min_seen, error, torch.nan)
    usual = float(torch.nanmedian(cost[len(cost) // 2]))
    cost = torch.nan_to_num(cost, nan=usual if usual == usual else 0.0)
    cost = _smoothed(cost, config.deformable.cost_smoothings)
    flat = cost.reshape(len(shifts), -1)
    steps = (shifts - reach).float()
    length = (steps**2).sum(1, keepdim=True)

    def chosen(total: torch.Tensor) -> torch.Tensor:
        return box_mean(steps[total.argmin(0)].T.reshape(3, *shape))

    field = chosen(flat)
    for coupling in config.deformable.coupling:
        field = chosen(flat + coupling * (length - 2 * steps @ field.reshape(3, -1)))
    return field * cell


def _consistent(forward: torch.Tensor, backward: torch.Tensor, rounds: int) -> torch.Tensor:
    """Returns the forward field in cells, after rounds that make the forward and the backward field inverse to each other."""
    zero = torch.zeros(3)
    grid = grid_points(forward.shape[1:], zero, 1.0)

    def follow(field: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
        return sample(field, grid + along.flip(0).movedim(0, -1), zero, 1.0)

    for _ in range(rounds):
        forward, backward = (
            (forward - follow(backward, forward)) / 2,
            (backward - follow(forward, backward)) / 2,
        )
    return forward


def _refine(
    features: tuple[torch.Tensor, torch.Tensor],
    seen: tuple[torch.Tensor, torch.Tensor],
    start: torch.Tensor,
    config: RegistrationConfig,
    progress: Progress,
) -> torch.Tensor:
    """Refines a field by Adam at half resolution; the field is smoothed before it is applied.

    Args:
        features: the features of the fixed and of the moving image, each `[c, z, y, x]`.
        seen: the validity of the fixed and of the moving image, each `[1, z, y, x]`, 0..1.
        start: the field to refine, in voxels of the fixed grid.
        config: the registration parameters.
        progress: called with the fraction completed.
    """
    settings = config.deformable
    stride = 2 if min(features[0].shape[1:]) >= settings.half_from else 1
    f, m = (F.avg_pool3d(values, stride) for values in features)
    f_seen, m_seen = (F.avg_pool3d(values, stride) for values in seen)
    both = torch.cat([m, m_seen])
    shape = f.shape[1:]
    field = (F.interpolate(start[None], size=shape, mode="trilinear")[0] / stride).clone().requires_grad_(True)
    optimiser = Adam(field, settings.rate, config.adam)
    zero = torch.zeros(3)
    grid = grid_points(shape, zero, 1.0)
    smooth = field
    for step in range(max(1, config.adam_steps)):
        smooth = _smoothed(field, settings.field_smoothings)
        if config.adam_steps == 0:
            break
        values = sample(both, grid + smooth.flip(0).movedim(0, -1), zero, 1.0)
        weight = values[-1] * f_seen[0]
        error = (((values[:-1] - f) ** 2).sum(0) * weight).sum() / weight.sum().clamp(min=1)
        roughness = sum((smooth.diff(dim=axis) ** 2).mean() for axis in (1, 2, 3))
        (error + config.smoothness * roughness).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        progress("registration", (step + 1) / config.adam_steps)
    return smooth.detach() * stride
