"""Pre-alignment: scale and centre from the body's outline, place and stretch along z by exhaustive search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from medsam2_atlas.registration.config import RegistrationConfig
from medsam2_atlas.registration.transform import Affine, grid_points, sample
from medsam2_atlas.registration.work_image import WorkImage, hu_classes

_CHANNEL_WEIGHTS = torch.tensor([1.0, 1.0, 1.0, 2.0, 0.5]).view(-1, 1, 1, 1)
_LEAST_OVERLAP = 0.35
_PIXELS = 2
"""Every second row and column is compared: a place along z shows in any of them."""
_TURNED = 0.8
"""Share of the upright cost below which half a turn is believed: few files are that wrong."""


@dataclass(frozen=True)
class ClassMaps:
    """HU-class maps within the body on a coarse grid: `[5, z, y, x]`, the last channel is the body itself."""

    maps: torch.Tensor
    valid: torch.Tensor
    origin: torch.Tensor
    spacing: float

    @classmethod
    def of(cls, image: WorkImage, spacing: float) -> ClassMaps:
        """Averages over cells of about `spacing` mm."""
        body = image.body.float()
        air, fat, soft, bone = hu_classes(image.hu) * body
        factor = max(1, round(spacing / image.spacing))
        maps = F.avg_pool3d(
            torch.stack([air, fat, soft, bone * 2, body])[None], factor, ceil_mode=True, count_include_pad=False
        )[0]
        valid = F.avg_pool3d(image.valid.float()[None, None], factor, ceil_mode=True, count_include_pad=False)[0, 0]
        origin = image.origin + (factor - 1) / 2 * image.spacing
        return cls(maps, valid, origin, factor * image.spacing)

    @cached_property
    def outline(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Centre (world mm) and width (mm) of the body along x and y: medians over slices, each `[2]`."""
        inside = (self.maps[4] > 0.5) & (self.valid > 0.5)
        centres, widths = [], []
        for axis, other in ((2, 1), (1, 2)):
            seen = inside.any(other)
            length = seen.shape[1]
            place = torch.arange(length)
            low = torch.where(seen, place, length).amin(1).float()
            high = torch.where(seen, place, -1).amax(1).float()
            ok = high > low
            if not ok.any():
                low, high, ok = torch.zeros(1), torch.tensor([length - 1.0]), torch.tensor([True])
            start = self.origin[0 if axis == 2 else 1]
            centres.append(((low + high) / 2)[ok].median() * self.spacing + start)
            widths.append((high - low + 1)[ok].median() * self.spacing)
        return torch.stack(centres), torch.stack(widths)


def prealign(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig) -> Affine:
    """A scaling and shift that takes fixed world points to moving ones.

    Every stretch in `z_scales` is tried at every offset that leaves at least 35 % of the shorter scan overlapping; and all of
    that once more with the fixed image turned by half around z, as a scan of a prone patient lies whose file does not say so.
    """
    f, m = ClassMaps.of(fixed, config.coarse_spacing), ClassMaps.of(moving, config.coarse_spacing)
    starts = [_best_start(f, m, config, turn) for turn in (1.0, -1.0)]
    upright, turned = (cost for cost, _ in starts)
    return starts[int(turned < _TURNED * upright)][1]


def _best_start(f: ClassMaps, m: ClassMaps, config: RegistrationConfig, turn: float) -> tuple[float, Affine]:
    """The best of all stretches and offsets along z, and its cost. turn: 1, or −1 for half a turn around z."""
    centre_f, width_f = f.outline
    centre_m, width_m = m.outline
    scale = (width_m / width_f).clamp(0.7, 1.4)
    step = f.spacing
    slices_f = f.maps.shape[1]
    maps_f, valid_f = (values[..., ::_PIXELS, ::_PIXELS] for values in (f.maps, f.valid > 0.5))
    plane = grid_points(torch.Size([1, *f.maps.shape[2:]]), f.origin, step)[0, ::_PIXELS, ::_PIXELS, :2]
    plane = (plane - centre_f) * scale * turn + centre_m
    reach_m = (m.maps.shape[1] - 1) * m.spacing
    best: tuple[float, float, int] | None = None
    for stretch in config.z_scales:
        slices_m = max(3, int(reach_m / (step * stretch)) + 1)
        z = m.origin[2] + torch.arange(slices_m) * step * stretch
        points = torch.cat(
            [plane.expand(slices_m, *plane.shape), z.view(-1, 1, 1, 1).expand(slices_m, *plane.shape[:2], 1)], -1
        )
        q = sample(m.maps, points, m.origin, m.spacing, padding="zeros")
        q_valid = sample(m.valid[None], points, m.origin, m.spacing, padding="zeros")[0]
        penalty = 0.05 * abs(math.log(stretch / float(scale.mean())))
        for lag in range(2 - slices_m, slices_f - 1):
            first, last = max(0, lag), min(slices_f, lag + slices_m)
            overlap = last - first
            if overlap < max(4, _LEAST_OVERLAP * min(slices_f, slices_m)):
                continue
            a, b = maps_f[:, first:last], q[:, first - lag : last - lag]
            seen = valid_f[first:last] & (q_valid[first - lag : last - lag] > 0.5)
            counted = (torch.maximum(a[4], b[4]) > 0.3) & seen
            if not counted.any():
                continue
            error = (((a - b) ** 2 * _CHANNEL_WEIGHTS).sum(0) * counted).sum() / counted.sum()
            cost = float(error) + penalty + 0.08 * (1 - overlap / min(slices_f, slices_m))
            if best is None or cost < best[0]:
                best = (cost, stretch, lag)
    if best is None:  # less than four coarse slices in common: lay the middles on each other
        best = (math.inf, 1.0, (slices_f - int(reach_m / step)) // 2)
    cost, stretch, lag = best
    across = scale * turn
    matrix = torch.diag(torch.tensor([float(across[0]), float(across[1]), stretch]))
    shift_z = m.origin[2] - stretch * (f.origin[2] + lag * step)
    shift = torch.stack([centre_m[0] - across[0] * centre_f[0], centre_m[1] - across[1] * centre_f[1], shift_z])
    return cost, Affine(matrix, shift)
