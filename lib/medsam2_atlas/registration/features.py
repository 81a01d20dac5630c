"""What the deformable stage compares: the MIND self-similarity descriptor and HU-class maps."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from medsam2_atlas.registration.work_image import hu_classes

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


def deformable_features(hu: torch.Tensor, class_weight: float) -> torch.Tensor:
    """Descriptor and weighted HU-class maps `[c, z, y, x]` of an image `[z, y, x]`."""
    descriptor = mind_ssc(hu)
    if class_weight == 0:
        return descriptor
    air, fat, _, bone = hu_classes(hu)
    brightness = (hu.clamp(-100, 200) + 100) / 300
    fluid = torch.sigmoid((hu + 15) / 6) * torch.sigmoid((25 - hu) / 6)  # bladder, gallbladder, stomach
    classes = torch.stack([0.7 * air, 0.7 * fat, 0.9 * bone, 1.5 * brightness, fluid])
    return torch.cat([descriptor, class_weight * classes])
