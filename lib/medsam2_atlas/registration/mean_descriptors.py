"""The mean descriptors of a group of images at each point of their common space, for the deformable stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from medsam2_atlas.registration.transform import sample

STEPS_PER_UNIT = 170
"""Steps of the 8-bit form per unit; descriptors range from 0 to 1.5. Part of the stored format: atlases do not record it."""


@dataclass(frozen=True)
class MeanDescriptors:
    """The mean of several images' descriptors in their common space.

    The mean squared distance of a descriptor to those of n images is its squared distance to their mean plus their variance.
    Registering a target to the mean descriptors therefore registers it to all images at once, at the cost of one. The
    descriptors of the mean image are different: they describe a blurred body.

    Attributes:
        values: `[c, z, y, x]` uint8; `STEPS_PER_UNIT` stands for 1.
        known: `[z, y, x]` bool, True where enough of the images have voxels.
        origin: the first voxel's centre, `[3]` (x, y, z) in mm.
        spacing: the spacing in mm.
    """

    values: np.ndarray
    known: np.ndarray
    origin: torch.Tensor
    spacing: float

    def at(self, points: torch.Tensor, fallback: torch.Tensor) -> torch.Tensor:
        """Returns the descriptors at world points of the common space.

        Args:
            points: `[..., 3]`: (x, y, z) in mm.
            fallback: the values `[c, ...]` for points at which the descriptors are not known.

        Returns:
            `[c, ...]`, float32.
        """
        values = sample(torch.from_numpy(self.values).float() / STEPS_PER_UNIT, points, self.origin, self.spacing)
        known = sample(torch.from_numpy(self.known).float()[None], points, self.origin, self.spacing, padding="zeros")
        return torch.where(known > 0.5, values, fallback)
