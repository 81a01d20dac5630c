"""Keypoints of one image, and those of a group of images in their common space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

STEPS_PER_UNIT = 127
"""Steps of a stored descriptor per unit. Part of the stored format: atlases do not record it."""


@dataclass(frozen=True)
class Keypoints:
    """Interest points of an image.

    Attributes:
        points: world points, `[n, 3]` float32: (x, y, z) in mm, LPS.
        scales: the size of each point, `[n]` float32: a standard deviation in mm.
        descriptors: `[n, d]` int8 of unit length; `STEPS_PER_UNIT` stands for 1.
        bright: `[n]` bool, True if the point is brighter than its surroundings (a negative Laplacian).
    """

    points: np.ndarray
    scales: np.ndarray
    descriptors: np.ndarray
    bright: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Keypoints:
        """Returns the keypoints at other points: `move` maps world points `[n, 3]` (x, y, z) in mm."""
        if not len(self):
            return self
        return replace(self, points=move(torch.from_numpy(self.points)).numpy().astype(np.float32))

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Returns the attributes under `prefix.NAME`, of the shapes above, for `from_arrays`."""
        names = ("points", "scales", "descriptors", "bright")
        return {f"{prefix}.{name}": getattr(self, name) for name in names}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> Keypoints | None:
        """Returns the keypoints from the result of `arrays`, which defines names and shapes.

        Atlases of earlier versions have none; then, None is returned.

        Raises:
            KeyError: an array is missing.
        """
        if f"{prefix}.points" not in arrays:
            return None
        return cls(*(arrays[f"{prefix}.{name}"] for name in ("points", "scales", "descriptors", "bright")))


@dataclass(frozen=True)
class Landmarks:
    """The keypoints of several images in their common space.

    A target joins the group as the only image that moves: its keypoints are matched with those of each image.

    Attributes:
        images: the keypoints of each image; their points lie in the common space.
    """

    images: tuple[Keypoints, ...]

    @classmethod
    def of(cls, images: Sequence[Keypoints | None]) -> Landmarks | None:
        """Returns the landmarks of those images that have keypoints; None if there are none."""
        known = tuple(image for image in images if image is not None and len(image))
        return cls(known) if known else None

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the landmarks as named arrays for `from_arrays`.

        Those of all images are joined to arrays of the shapes in `Keypoints`; `landmarks.counts` `[n]` has their numbers.
        """
        joined = Keypoints(
            np.concatenate([image.points for image in self.images]),
            np.concatenate([image.scales for image in self.images]),
            np.concatenate([image.descriptors for image in self.images]),
            np.concatenate([image.bright for image in self.images]),
        )
        return joined.arrays("landmarks") | {"landmarks.counts": np.array([len(image) for image in self.images])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Landmarks | None:
        """Returns the landmarks from the result of `arrays`, which defines names and shapes.

        Atlases of earlier versions have none; then, None is returned.

        Args:
            arrays: arrays by name; other names are ignored.

        Raises:
            KeyError: an array is missing.
        """
        joined = Keypoints.from_arrays(arrays, "landmarks")
        if joined is None:
            return None
        stops = np.cumsum(arrays["landmarks.counts"])
        parts = [slice(int(stop - count), int(stop)) for stop, count in zip(stops, arrays["landmarks.counts"], strict=True)]
        return cls(tuple(Keypoints(joined.points[p], joined.scales[p], joined.descriptors[p], joined.bright[p]) for p in parts))
