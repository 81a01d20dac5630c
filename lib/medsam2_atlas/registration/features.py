"""The features that the deformable stage compares: the MIND self-similarity descriptor and HU-class maps."""

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
    """Returns the MIND-SSC descriptor of an image (Heinrich et al., MICCAI 2013).

    The descriptor has twelve values exp(−d/v): d is the squared distance between the patches around two of the six neighbours,
    less the smallest of the twelve distances; v is the mean of the twelve d.

    Args:
        hu: HU, `[z, y, x]`.
        config: the window in HU, the distance of the neighbours and the radius of the patches in voxels.

    Returns:
        `[12, z, y, x]`, 0..1.
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
    """Returns the descriptors of an image in HU `[z, y, x]`: 12 of MIND-SSC, then 5 HU-class maps, `[17, z, y, x]`, 0..1.5."""
    features = config.features
    air, fat, _, bone = hu_classes(hu, config.tissue)
    lower, upper = features.brightness_window
    brightness = (hu.clamp(lower, upper) - lower) / (upper - lower)
    thin, thick = features.fluid_window
    fluid = torch.sigmoid((hu - thin) / features.fluid_width) * torch.sigmoid((thick - hu) / features.fluid_width)
    weighted = (features.air * air, features.fat * fat, features.bone * bone, features.brightness * brightness, fluid)
    return torch.cat([mind_ssc(hu, features), torch.stack(weighted)])


def deformable_features(hu: torch.Tensor, image: WorkImage, points: torch.Tensor, config: RegistrationConfig) -> torch.Tensor:
    """Returns the features of an image for the comparison: its descriptors, with weighted HU-class maps.

    Args:
        hu: HU of the image at the points, `[z, y, x]`.
        image: the image. If it is the mean of a group, the group's mean descriptors replace its own where they are known.
        points: world points `[z, y, x, 3]`: (x, y, z) in mm.
        config: the registration parameters; `class_weight` 0 omits the HU-class maps.

    Returns:
        `[17, z, y, x]`, or `[12, z, y, x]` without HU-class maps.
    """
    values = descriptors(hu, config)
    if image.group is not None:
        values = image.group.at(points, fallback=values)
    if config.class_weight == 0:
        return values[: len(_PAIRS)]
    values[len(_PAIRS) :] *= config.class_weight
    return values


def mean_descriptors(
    images: Iterable[tuple[torch.Tensor, torch.Tensor]], grid: WorkImage, config: RegistrationConfig
) -> MeanDescriptors:
    """Returns the mean descriptors of images in a common space.

    Args:
        images: at least one pair of HU and validity (bool), each `[z, y, x]` on the grid.
        grid: the grid of the common space.
        config: the registration parameters. The mean of a voxel is known if a share of `group.min_coverage` of the images
            show the voxel.
    """
    total, count, number = torch.zeros(()), torch.zeros(grid.shape), 0
    for hu, valid in images:
        inner = -F.max_pool3d(-valid.float()[None, None], 3, 1, 1)[0, 0]  # exclude the scan's border: it is no edge of the body
        total = total + descriptors(torch.where(valid, hu, AIR), config) * inner
        count += inner
        number += 1
    mean = total / count.clamp(min=1)
    known = count >= max(1.0, config.group.min_coverage * number)
    quantised = (mean * STEPS_PER_UNIT).round().clamp(0, 255).to(torch.uint8)
    return MeanDescriptors(quantised.numpy(), known.numpy(), grid.origin, grid.spacing)
