"""Means over the cube around each voxel."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def box_mean(values: torch.Tensor, radius: int = 1) -> torch.Tensor:
    """Returns the mean over the cube with a side of `2 radius + 1` voxels around each voxel.

    Voxels outside the image do not count.

    Args:
        values: `[c, z, y, x]`, float.
        radius: the radius in voxels.

    Returns:
        `[c, z, y, x]`, of the same shape.

    Examples:
        >>> box_mean(torch.tensor([0.0, 3.0, 6.0]).view(1, 1, 1, 3)).flatten().tolist()
        [1.5, 3.0, 4.5]
    """
    width = 2 * radius + 1
    if min(values.shape[1:]) >= width:
        return F.avg_pool3d(values[None], width, 1, radius, count_include_pad=False)[0]
    # Thin image: PyTorch refuses a kernel that is larger than the image, even if the padded image is large enough.
    inside = F.pad(torch.ones(1, 1, *values.shape[1:], dtype=values.dtype), (radius,) * 6)
    total = F.avg_pool3d(F.pad(values[None], (radius,) * 6), width, 1)
    return (total / F.avg_pool3d(inside, width, 1))[0]
