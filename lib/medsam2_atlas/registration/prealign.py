"""Pre-alignment: scale and centre from the body's outline, position and stretch along z by exhaustive search."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from medsam2_atlas.registration.config import PrealignConfig, RegistrationConfig, TissueConfig
from medsam2_atlas.registration.transform import Affine, grid_points, sample
from medsam2_atlas.registration.work_image import WorkImage, hu_classes


@dataclass(frozen=True)
class ClassMaps:
    """HU-class maps within the body, on a coarse grid.

    Attributes:
        maps: `[5, z, y, x]`, 0..1: air, fat, soft tissue, bone, and the body itself.
        valid: `[z, y, x]`, 0..1: the share of each cell inside the scan.
        origin: the first cell's centre, `[3]` (x, y, z) in mm.
        spacing: the spacing in mm.
    """

    maps: torch.Tensor
    valid: torch.Tensor
    origin: torch.Tensor
    spacing: float

    @classmethod
    def of(cls, image: WorkImage, spacing: float, tissue: TissueConfig) -> ClassMaps:
        """Averages an image's HU-class maps over cells.

        Args:
            image: the CT on its working grid.
            spacing: the approximate size of a cell in mm.
            tissue: the borders between the classes.
        """
        body = image.body.float()
        air, fat, soft, bone = hu_classes(image.hu, tissue) * body
        factor = max(1, round(spacing / image.spacing))
        maps = F.avg_pool3d(torch.stack([air, fat, soft, bone, body])[None], factor, ceil_mode=True, count_include_pad=False)[0]
        valid = F.avg_pool3d(image.valid.float()[None, None], factor, ceil_mode=True, count_include_pad=False)[0, 0]
        origin = image.origin + (factor - 1) / 2 * image.spacing
        return cls(maps, valid, origin, factor * image.spacing)

    @cached_property
    def outline(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The centre of the body (world coordinates in mm) and its width in mm, each `[2]` (x, y): medians over slices."""
        inside = (self.maps[4] > 0.5) & (self.valid > 0.5)
        centres, widths = [], []
        for axis, other in ((2, 1), (1, 2)):
            seen = inside.any(other)
            length = seen.shape[1]
            place = torch.arange(length)
            lower = torch.where(seen, place, length).amin(1).float()
            upper = torch.where(seen, place, -1).amax(1).float()
            ok = upper > lower
            if not ok.any():
                lower, upper, ok = torch.zeros(1), torch.tensor([length - 1.0]), torch.tensor([True])
            start = self.origin[0 if axis == 2 else 1]
            centres.append(((lower + upper) / 2)[ok].median() * self.spacing + start)
            widths.append((upper - lower + 1)[ok].median() * self.spacing)
        return torch.stack(centres), torch.stack(widths)


def prealign(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig) -> Affine:
    """Returns the scaling and shift from fixed to moving world points (x, y, z in mm).

    The search tries each stretch in `z_scales` at each offset along z at which the scans overlap enough. It is repeated with
    the fixed image turned by half around z, for prone patients whose files do not record the position.

    Args:
        fixed: the fixed image.
        moving: the moving image.
        config: the registration parameters.
    """
    # Both scans overlap enough only if their voxels do: the grid of a mean image may be larger than its images.
    scans = (image.around_scan() for image in (fixed, moving))
    f, m = (ClassMaps.of(scan, config.coarse_spacing, config.tissue) for scan in scans)
    starts = [_best_start(f, m, config, turn) for turn in (1.0, -1.0)]
    upright, turned = (cost for cost, _ in starts)
    return starts[int(turned < config.prealign.turned * upright)][1]


def _best_start(f: ClassMaps, m: ClassMaps, config: RegistrationConfig, turn: float) -> tuple[float, Affine]:
    """Returns the cost and the map of the best stretch and offset along z; `turn` is 1, or −1 for half a turn around z."""
    centre_f, width_f = f.outline
    centre_m, width_m = m.outline
    scale = (width_m / width_f).clamp(*config.prealign.scale)
    n = config.prealign.pixel_step
    plane = grid_points(torch.Size([1, *f.maps.shape[2:]]), f.origin, f.spacing)[0, ::n, ::n, :2]
    plane = (plane - centre_f) * scale * turn + centre_m
    best: tuple[float, float, int] | None = None
    for stretch in config.z_scales:
        penalty = config.prealign.stretch_penalty * abs(math.log(stretch / float(scale.mean())))
        for cost, lag in _costs(f, _stretched(m, f.spacing * stretch, plane), config.prealign, penalty):
            if best is None or cost < best[0]:
                best = (cost, stretch, lag)
    if best is None:  # too few coarse slices overlap: align the middles of the scans
        best = (math.inf, 1.0, (f.maps.shape[1] - int(_length(m) / f.spacing)) // 2)
    cost, stretch, lag = best
    across = scale * turn
    matrix = torch.diag(torch.tensor([float(across[0]), float(across[1]), stretch]))
    shift_z = m.origin[2] - stretch * (f.origin[2] + lag * f.spacing)
    shift = torch.stack([centre_m[0] - across[0] * centre_f[0], centre_m[1] - across[1] * centre_f[1], shift_z])
    return cost, Affine(matrix, shift)


def _length(maps: ClassMaps) -> float:
    """Returns the distance between the first and the last slice, in mm."""
    return (maps.maps.shape[1] - 1) * maps.spacing


def _stretched(m: ClassMaps, step: float, plane: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the maps `[5, z, y, x]` and the validity `[z, y, x]` on slices at distances of `step` mm.

    Args:
        m: the maps of the moving image.
        step: the distance between slices in mm.
        plane: the pixels of a slice, `[y, x, 2]`: (x, y) in mm.
    """
    slices = max(3, int(_length(m) / step) + 1)
    z = m.origin[2] + torch.arange(slices) * step
    points = torch.cat([plane.expand(slices, *plane.shape), z.view(-1, 1, 1, 1).expand(slices, *plane.shape[:2], 1)], -1)
    maps = sample(m.maps, points, m.origin, m.spacing, padding="zeros")
    return maps, sample(m.valid[None], points, m.origin, m.spacing, padding="zeros")[0]


def _costs(
    f: ClassMaps, moving: tuple[torch.Tensor, torch.Tensor], config: PrealignConfig, penalty: float
) -> Iterator[tuple[float, int]]:
    """Yields the cost, plus `penalty`, of each offset along z with enough overlap, and the offset in slices."""
    maps_m, valid_m = moving
    n, weights = config.pixel_step, torch.tensor(config.weights).view(-1, 1, 1, 1)
    maps_f, valid_f = (values[..., ::n, ::n] for values in (f.maps, f.valid > 0.5))
    slices_f, slices_m = maps_f.shape[1], maps_m.shape[1]
    shorter = min(slices_f, slices_m)
    for lag in range(2 - slices_m, slices_f - 1):
        first, last = max(0, lag), min(slices_f, lag + slices_m)
        overlap = last - first
        if overlap < max(config.min_slices, config.min_overlap * shorter):
            continue
        a, b = maps_f[:, first:last], maps_m[:, first - lag : last - lag]
        seen = valid_f[first:last] & (valid_m[first - lag : last - lag] > 0.5)
        counted = (torch.maximum(a[4], b[4]) > config.min_body) & seen
        if counted.any():
            error = (((a - b) ** 2 * weights).sum(0) * counted).sum() / counted.sum()
            yield float(error) + penalty + config.overlap_penalty * (1 - overlap / shorter), lag
