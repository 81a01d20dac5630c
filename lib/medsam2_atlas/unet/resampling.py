"""MONAI dictionary transforms that prepare an image for a coarser grid, and that resample label maps with whole slices.

Arrays are `[1, z, y, x]`. Their affine maps an index (z, y, x) to world (x, y, z) in mm, LPS.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

_MIN_RATIO, _SIGMA = 0.75, 0.4
"""Smoothing before resampling. It applies along an axis if old spacing / new spacing is below the first value; the second is
the standard deviation in new voxels. Weights were trained with these values, so they are not settings."""


class Smoothd(MapTransform):
    """Smooths along the axes that resampling makes coarser, to remove detail finer than the new grid."""

    def __init__(self, keys: Any, spacing: tuple[float, ...], slice_shape: tuple[int, int] | None = None) -> None:
        """Sets the new grid.

        Args:
            keys: keys of the images.
            spacing: spacing (z, y, x) in mm; 0 keeps an axis unchanged.
            slice_shape: number of rows and columns (y, x) to which slices are resampled; by default, `spacing` applies.
        """
        super().__init__(keys)
        self._spacing, self._slice_shape = spacing, slice_shape

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the dictionary with smoothed arrays `[1, z, y, x]` under the same keys."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            array = image[0].numpy()
            sizes = list(zip(self._spacing, image.pixdim.tolist(), strict=True))
            if self._slice_shape is not None:  # 512 pixels that become 256 get twice as large
                sizes[1:] = zip(array.shape[1:], self._slice_shape, strict=True)
            for axis, (new, old) in enumerate(sizes):
                if old < _MIN_RATIO * new:  # one axis at a time needs only one copy of the image
                    array = ndimage.gaussian_filter1d(array, _SIGMA * new / old, axis, mode="nearest", truncate=3.0)
            result[key] = MetaTensor(torch.from_numpy(array)[None], affine=image.affine)
        return result


class ResizeLabeld(MapTransform):
    """Resamples the label map's slices to the pixels of the image's, which `Resized` has resampled before.

    It takes the nearest voxel, as `Resized` does with `nearest-exact`. But if the size is halved, each new pixel has two
    nearest old ones along an axis, of which `Resized` always takes the second: its label maps are shifted by half a pixel.
    Here, even pixels take the first and odd pixels the second, so that label maps are not shifted on average.
    """

    def __init__(self) -> None:
        super().__init__(("image", "label"), allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the dictionary with the label map `[1, z, y, x]` on the image's grid; without a label map, unchanged."""
        result = dict(data)
        if "label" in result:
            image, label = result["image"], result["label"]
            rows, columns = (nearest(label.shape[a], image.shape[a]) for a in (2, 3))
            array = label.as_tensor()[:, :, rows][..., columns]
            result["label"] = MetaTensor(array, affine=image.affine)
        return result


def nearest(old: int, new: int) -> torch.Tensor:
    """Returns the indices `[new]` of the voxels nearest to new voxels, if `old` voxels become `new` along an axis.

    >>> nearest(8, 4).tolist()
    [0, 3, 4, 7]
    """
    twice = (2 * torch.arange(new) + 1) * old - new  # 2 * new times the position, in integers: ties are exact
    index, rest = twice.div(2 * new, rounding_mode="floor"), twice.remainder(2 * new)
    index += (rest > new) | ((rest == new) & (torch.arange(new) % 2 == 1))
    return index.clamp(0, old - 1)
