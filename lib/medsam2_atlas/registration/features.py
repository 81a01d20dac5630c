"""What the deformable stage compares: the MIND self-similarity descriptor and HU-class maps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F

from medsam2_atlas.registration.mean_descriptors import STEPS_PER_UNIT, MeanDescriptors
from medsam2_atlas.registration.work_image import AIR, WorkImage, hu_classes

_NEIGHBOURS = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
_PAIRS = [
    (i, j)
    for i, j in itertools.combinations(range(6), 2)
    if sum((a - b) ** 2 for a, b in zip(_NEIGHBOURS[i], _NEIGHBOURS[j], strict=True)) == 2
]


def mind_ssc(hu: torch.Tensor, dilation: int = 2, radius: int = 1) -> torch.Tensor:
    """The MIND-SSC descriptor `[12, z, y, x]` of an image `[z, y, x]` (Heinrich et al., MICCAI 2013).

    Twelve distances between patches around the six neighbours, relative to their local mean, as exp(−d/v).
    """
    padded = F.pad(hu.clamp(-250, 350)[None, None], (dilation,) * 6, mode="replicate")
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


def descriptors(hu: torch.Tensor) -> torch.Tensor:
    """MIND-SSC, then HU-class maps: `[17, z, y, x]`, from 0 to 1.5, of an image `[z, y, x]`."""
    air, fat, _, bone = hu_classes(hu)
    brightness = (hu.clamp(-100, 200) + 100) / 300
    fluid = torch.sigmoid((hu + 15) / 6) * torch.sigmoid((25 - hu) / 6)  # bladder, gallbladder, stomach
    classes = torch.stack([0.7 * air, 0.7 * fat, 0.9 * bone, 1.5 * brightness, fluid])
    return torch.cat([mind_ssc(hu), classes])


def deformable_features(hu: torch.Tensor, image: WorkImage, points: torch.Tensor, class_weight: float) -> torch.Tensor:
    """What is compared at world points of an image, `[c, z, y, x]`: its descriptors, the HU-class maps weighted.

    Args:
        hu: `[z, y, x]`, the image sampled at the points.
        image: if it is the mean of a group and knows their descriptors, those are taken where they are known.
        points: `[z, y, x, 3]`.
        class_weight: 0 leaves the HU-class maps out.
    """
    values = descriptors(hu)
    if image.group is not None:
        values = image.group.at(points, otherwise=values)
    if class_weight == 0:
        return values[: len(_PAIRS)]
    values[len(_PAIRS) :] *= class_weight
    return values


def mean_descriptors(
    images: Iterable[tuple[torch.Tensor, torch.Tensor]], grid: WorkImage, least_coverage: float
) -> MeanDescriptors:
    """Of images that lie in a common space.

    Args:
        images: HU and where there are voxels, each `[z, y, x]` on the grid; at least one.
        grid: of the common space.
        least_coverage: share of the images that must show a voxel for its mean to be known.
    """
    total, count, number = torch.zeros(()), torch.zeros(grid.shape), 0
    for hu, valid in images:
        inner = -F.max_pool3d(-valid.float()[None, None], 3, 1, 1)[0, 0]  # the scan's border is no edge of the body
        total = total + descriptors(torch.where(valid, hu, AIR)) * inner
        count += inner
        number += 1
    mean = total / count.clamp(min=1)
    known = count >= max(1.0, least_coverage * number)
    quantised = (mean * STEPS_PER_UNIT).round().clamp(0, 255).to(torch.uint8)
    return MeanDescriptors(quantised.numpy(), known.numpy(), grid.origin, grid.spacing)
