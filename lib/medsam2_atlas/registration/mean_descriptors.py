"""What a group of images looks like at each point of their common space, for the deformable stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from medsam2_atlas.registration.transform import sample

STEPS_PER_UNIT = 170
"""Descriptors reach from 0 to 1.5; they are kept in 8 bits. Part of the stored form: atlases do not name it."""


@dataclass(frozen=True)
class MeanDescriptors:
    """The mean of several images' descriptors in their common space.

    The mean squared distance of a descriptor to those of n images is its squared distance to their mean plus their variance.
    So what is registered to the mean descriptors is registered to all images at once, at the cost of one. The descriptors
    of the mean image differ: they describe a blurred body that no patient has.

    values: `[c, z, y, x]` uint8, `STEPS_PER_UNIT` = 1. known: `[z, y, x]` bool, where enough of the images have voxels.
    origin: `[3]` (x, y, z) mm. spacing: mm.
    """

    values: np.ndarray
    known: np.ndarray
    origin: torch.Tensor
    spacing: float

    def at(self, points: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
        """Returns descriptors `[c, ...]` at world points `[..., 3]` of the common space; `otherwise` where none are known."""
        values = sample(torch.from_numpy(self.values).float() / STEPS_PER_UNIT, points, self.origin, self.spacing)
        known = sample(torch.from_numpy(self.known).float()[None], points, self.origin, self.spacing, padding="zeros")
        return torch.where(known > 0.5, values, otherwise)
