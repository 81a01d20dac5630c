"""What the deformable stage compares: the MIND self-similarity descriptor and HU-class maps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F

from medsam2_atlas.registration.config import FeatureConfig, RegistrationConfig
from medsam2_atlas.registration.mean_descriptors import STEPS_PER_UNIT, MeanDescriptors
from medsam2_atlas.registration.work_image import AIR, WorkImage, hu_classes

_NEIGHBOURS = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
_PAIRS = [
    (i, j)
    for i, j in itertools.combinations(range(6), 2)
    if sum((a - b) ** 2 for a, b in zip(_NEIGHBOURS[i], _NEIGHBOURS[j], strict=True)) == 2
]


def mind_ssc(hu: torch.Tensor, config: FeatureConfig) -> torch.Tensor:
    """Returns the MIND-SSC descriptor `[12, z, y, x]` of an image `[z, y, x]` (Heinrich et al., MICCAI 2013).

    Twelve distances between patches around the six neighbours, relative to their local mean, as exp(−d/v).
    """
    dilation, radius = config.mind_dilation, config.mind_radius
    padded = F.pad(hu.clamp(*config.mind_window)[None, None], (dilation,) * 6, mode="replicate")
    z, y, x = hu.shape
    shifted = [
        padded[..., d + a * d : d + a * d + z, d + b * d : d + b * d + y, d + c * d : d + c * d + x]
        for d in (dilation,)
        for a, b, c in _NEIGHBOURS
    ]
    distance = torch.cat([(shifted[i] - shifted[j]) ** 2 for i, j in _PAIRS], 1)
    distance = F.avg_pool3d(F.pad(distance, (radius,) * 6, mode="replicate"), 2 * radius + 1, 1)
    distance = distance - distance.amin(1, keepdim=True)
    variance = distance.mean(1, keepdim=True)
    typical = float(variance.mean())
    return torch.exp(-distance / variance.clamp(max(typical * 1e-3, 1e-6), max(typical * 1e3, 1e-3)))[0]


def descriptors(hu: torch.Tensor, config: RegistrationConfig) -> torch.Tensor:
    """Returns MIND-SSC, then HU-class maps: `[17, z, y, x]`, from 0 to 1.5, of an image `[z, y, x]`."""
    features = config.features
    air, fat, _, bone = hu_classes(hu, config.tissue)
    low, high = features.brightness_window
    brightness = (hu.clamp(low, high) - low) / (high - low)
    thin, thick = features.fluid_window
    fluid = torch.sigmoid((hu - thin) / features.fluid_width) * torch.sigmoid((thick - hu) / features.fluid_width)
    weighted = (features.air * air, features.fat * fat, features.bone * bone, features.brightness * brightness, fluid)
    return torch.cat([mind_ssc(hu, features), torch.stack(weighted)])


def deformable_features(hu: torch.Tensor, image: WorkImage, points: torch.Tensor, config: RegistrationConfig) -> torch.Tensor:
    """Returns the features `[c, z, y, x]` of an image that are compared: its descriptors, the HU-class maps weighted.

    Args:
        hu: `[z, y, x]`, the image sampled at the points.
        image: if it is the mean of a group and knows their descriptors, those are taken where they are known.
        points: `[z, y, x, 3]`.
        config: registration parameters; `class_weight` 0 leaves the HU-class maps out.
    """
    values = descriptors(hu, config)
    if image.group is not None:
        values = image.group.at(points, otherwise=values)
    if config.class_weight == 0:
        return values[: len(_PAIRS)]
    values[len(_PAIRS) :] *= config.class_weight
    return values


def mean_descriptors(
    images: Iterable[tuple[torch.Tensor, torch.Tensor]], grid: WorkImage, config: RegistrationConfig
) -> MeanDescriptors:
    """Returns the mean descriptors of images that lie in a common space.

    Args:
        images: HU and where there are voxels, each `[z, y, x]` on the grid; at least one.
        grid: of the common space.
        config: registration parameters; a mean is known where `group.min_coverage` of the images show the voxel.
    """
    total, count, number = torch.zeros(()), torch.zeros(grid.shape), 0
    for hu, valid in images:
        inner = -F.max_pool3d(-valid.float()[None, None], 3, 1, 1)[0, 0]  # the scan's border is no edge of the body
        total = total + descriptors(torch.where(valid, hu, AIR), config) * inner
        count += inner
        number += 1
    mean = total / count.clamp(min=1)
    known = count >= max(1.0, config.group.min_coverage * number)
    quantised = (mean * STEPS_PER_UNIT).round().clamp(0, 255).to(torch.uint8)
    return MeanDescriptors(quantised.numpy(), known.numpy(), grid.origin, grid.spacing)
