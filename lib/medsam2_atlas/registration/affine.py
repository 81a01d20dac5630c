"""Affine registration of HU-class maps by gradient descent."""

from __future__ import annotations

import torch

from medsam2_atlas.base.progress import Progress, part, silent
from medsam2_atlas.registration.adam import Adam
from medsam2_atlas.registration.config import RegistrationConfig
from medsam2_atlas.registration.transform import Affine, sample
from medsam2_atlas.registration.work_image import WorkImage, hu_classes

_LEVELS = ((9.0, 0.02), (6.0, 0.008))
"""Spacing (mm) and learning rate of each level."""

_POINTS = 40_000
"""About so many are enough for twelve parameters."""


def refine_affine(
    fixed: WorkImage, moving: WorkImage, start: Affine, config: RegistrationConfig, progress: Progress = silent
) -> Affine:
    """Improves an affine map from fixed to moving world points, from coarse to fine."""
    for level, ((spacing, rate), steps) in enumerate(zip(_LEVELS, config.affine_steps, strict=True)):
        share = part(progress, level / len(_LEVELS), (level + 1) / len(_LEVELS))
        start = _descend(fixed.at_spacing(spacing), moving.at_spacing(spacing), start, steps, rate, share)
    return start


def _channels(hu: torch.Tensor) -> torch.Tensor:
    return torch.cat([hu_classes(hu), ((hu.clamp(-160, 240) + 160) / 400)[None]])


def _descend(fixed: WorkImage, moving: WorkImage, start: Affine, steps: int, rate: float, progress: Progress) -> Affine:
    n = max(1, round((fixed.hu.numel() / _POINTS) ** (1 / 3)))
    wanted, offered = _channels(fixed.hu[::n, ::n, ::n]), _channels(moving.hu)
    with_valid = torch.cat([offered, moving.valid.float()[None]])
    seen = fixed.valid[::n, ::n, ::n].float()
    points = fixed.points()[::n, ::n, ::n]
    middle = points.reshape(-1, 3).mean(0)
    centred = points - middle
    # The matrix changes by half a unit and the shift by 100 mm per unit of a parameter: similar effect at the rim.
    change = torch.zeros(12, requires_grad=True)
    optimiser = Adam(change, rate)

    def current() -> tuple[torch.Tensor, torch.Tensor]:
        matrix = start.matrix @ (torch.eye(3) + change[:9].view(3, 3) * 0.5)
        return matrix, start(middle) + change[9:] * 100

    for step in range(steps):
        matrix, shift = current()
        values = sample(with_valid, centred @ matrix.T + shift, moving.origin, moving.spacing, padding="zeros")
        weight = values[-1] * seen
        error = ((values[:-1] - wanted) ** 2).sum(0)
        loss = (error * weight).sum() / weight.sum().clamp(min=1) + 0.1 * (change[:9] ** 2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        progress("registration", (step + 1) / steps)
    with torch.no_grad():
        matrix, shift = current()
        return Affine(matrix, shift - matrix @ middle)
