"""Means over the cube around each voxel are correct, even in thin images."""

from __future__ import annotations

import pytest
import torch

from medsam2_atlas.registration import box_mean


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("shape", [(6, 7, 8), (1, 7, 8), (2, 5, 6), (4, 2, 1)])
def test_a_mean_counts_only_voxels_inside_the_image(shape: tuple[int, int, int], radius: int) -> None:
    values = torch.rand(2, *shape, generator=torch.Generator().manual_seed(3))
    found = box_mean(values, radius)
    assert found.shape == values.shape
    for z, y, x in torch.cartesian_prod(*(torch.arange(n) for n in shape)).tolist():
        around = tuple(slice(max(0, n - radius), n + radius + 1) for n in (z, y, x))
        assert torch.allclose(found[:, z, y, x], values[(slice(None), *around)].mean((1, 2, 3)), atol=1e-5)
