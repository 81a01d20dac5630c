"""Means over the cube around each voxel."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def box_mean(values: torch.Tensor, radius: int = 1) -> torch.Tensor:
    """Returns means over the cube of `2 radius + 1` voxels around each voxel, without what lies outside of the image.

    Args:
        values: `[c, z, y, x]`, float.
        radius: in voxels.
    """
    width = 2 * radius + 1
    if min(values.shape[1:]) >= width:
        return F.avg_pool3d(values[None], width, 1, radius, count_include_pad=False)[0]
    # A thin image: PyTorch refuses kernels that are larger than an image, even with the padding that makes up for it.
    inside = F.pad(torch.ones(1, 1, *values.shape[1:], dtype=values.dtype), (radius,) * 6)
    total = F.avg_pool3d(F.pad(values[None], (radius,) * 6), width, 1)
    return (total / F.avg_pool3d(inside, width, 1))[0]
