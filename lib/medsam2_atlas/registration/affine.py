"""Affine registration of HU-class maps by gradient descent."""

from __future__ import annotations

import torch

from medsam2_atlas.base.progress import Progress, part, silent
from medsam2_atlas.registration.adam import Adam
from medsam2_atlas.registration.config import RegistrationConfig
from medsam2_atlas.registration.transform import Affine, sample
from medsam2_atlas.registration.work_image import WorkImage, hu_classes


def refine_affine(
    fixed: WorkImage, moving: WorkImage, start: Affine, config: RegistrationConfig, progress: Progress = silent
) -> Affine:
    """Refines an affine map by gradient descent on two levels, from coarse to fine.

    Args:
        fixed: the fixed image.
        moving: the moving image.
        start: the map to refine, from fixed to moving world points (x, y, z in mm).
        config: the registration parameters.
        progress: called with the fraction completed.

    Returns:
        The refined map, in the same direction.
    """
    spacings = config.affine.spacings
    for level, spacing in enumerate(spacings):
        share = part(progress, level / len(spacings), (level + 1) / len(spacings))
        start = _descend(fixed.at_spacing(spacing), moving.at_spacing(spacing), start, config, level, share)
    return start


def _channels(hu: torch.Tensor, config: RegistrationConfig) -> torch.Tensor:
    lower, upper = config.affine.window
    return torch.cat([hu_classes(hu, config.tissue), ((hu.clamp(lower, upper) - lower) / (upper - lower))[None]])


def _descend(
    fixed: WorkImage, moving: WorkImage, start: Affine, config: RegistrationConfig, level: int, progress: Progress
) -> Affine:
    affine, steps = config.affine, config.affine_steps[level]
    n = max(1, round((fixed.hu.numel() / affine.points) ** (1 / 3)))
    target = _channels(fixed.hu[::n, ::n, ::n], config)
    with_valid = torch.cat([_channels(moving.hu, config), moving.valid.float()[None]])
    seen = fixed.valid[::n, ::n, ::n].float()
    points = fixed.points()[::n, ::n, ::n]
    middle = points.reshape(-1, 3).mean(0)
    centred = points - middle
    change = torch.zeros(12, requires_grad=True)
    optimiser = Adam(change, affine.rates[level], config.adam)

    def current() -> tuple[torch.Tensor, torch.Tensor]:
        matrix = start.matrix @ (torch.eye(3) + change[:9].view(3, 3) * affine.matrix_unit)
        return matrix, start(middle) + change[9:] * affine.shift_unit

    for step in range(steps):
        matrix, shift = current()
        values = sample(with_valid, centred @ matrix.T + shift, moving.origin, moving.spacing, padding="zeros")
        weight = values[-1] * seen
        error = ((values[:-1] - target) ** 2).sum(0)
        penalty = affine.matrix_penalty * (change[:9] ** 2).sum()
        loss = (error * weight).sum() / weight.sum().clamp(min=1) + penalty
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        progress("registration", (step + 1) / steps)
    with torch.no_grad():
        matrix, shift = current()
        return Affine(matrix, shift - matrix @ middle)
