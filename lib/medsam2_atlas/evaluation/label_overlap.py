"""Overlap of two label maps of one CT, slice by slice: what an annotator has changed, and where two label maps differ.

One joint histogram per slice gives volumes, changes, Dice and the slices that differ most. It takes a pass over the voxels and
no distances, so it is fast enough for a viewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medsam2_atlas.imaging.labels import organ_table


@dataclass(frozen=True)
class Overlap:
    """The joint histogram of two label maps.

    Attributes:
        counts: number of voxels `[z, value in the first, value in the second]`.
        voxel_ml: volume of a voxel in ml.
    """

    counts: np.ndarray
    voxel_ml: float

    @classmethod
    def of(cls, first: np.ndarray | None, second: np.ndarray, voxel_ml: float) -> Overlap:
        """Counts the voxels of two label maps.

        Args:
            first: label map `[z, y, x]` uint8; None for an empty one.
            second: label map `[z, y, x]` uint8 on the same grid.
            voxel_ml: volume of a voxel in ml.

        Raises:
            ValueError: the shapes differ.
        """
        if first is not None and first.shape != second.shape:
            raise ValueError(f"label maps of shapes {first.shape} and {second.shape} cannot be compared")
        values = 1 + max(max(organ_table().indices), int(second.max()), 0 if first is None else int(first.max()))
        counts = np.zeros((len(second), values, values), np.int64)
        for z, plane in enumerate(second):
            joint = plane.astype(np.int32) if first is None else first[z].astype(np.int32) * values + plane
            counts[z] = np.bincount(joint.ravel(), minlength=values * values).reshape(values, values)
        return cls(counts, voxel_ml)

    @property
    def organs(self) -> list[int]:
        """The numbers of the organs in at least one of the label maps."""
        return [k for k in range(1, self.counts.shape[1]) if self._first(k) or self._second(k)]

    @property
    def first_organs(self) -> set[int]:
        """The numbers of the organs in the first label map."""
        return {k for k in self.organs if self._first(k)}

    @property
    def second_organs(self) -> set[int]:
        """The numbers of the organs in the second label map."""
        return {k for k in self.organs if self._second(k)}

    def changes(self) -> dict[int, dict[str, float]]:
        """Returns the changes from the first to the second label map by organ number.

        `ml` is the volume in the second, `added_ml` and `removed_ml` are the volumes of voxels that only the second or only the
        first has, all in ml.
        """
        return {
            k: {
                "ml": self._ml(self._second(k)),
                "added_ml": self._ml(self._second(k) - self._both(k)),
                "removed_ml": self._ml(self._first(k) - self._both(k)),
            }
            for k in self.organs
        }

    def edited_voxels(self) -> dict[int, int]:
        """Returns the number of voxels that only one of the label maps has, by organ number."""
        return {k: self._first(k) + self._second(k) - 2 * self._both(k) for k in self.organs}

    def differences(self, max_slices: int) -> dict[int, dict[str, Any]]:
        """Returns the differences of the label maps by organ number.

        `dice` is 0..1; `first_ml` and `second_ml` are volumes in ml; `worst` are the slices with the most voxels that only one
        of the label maps has, the worst first.

        Args:
            max_slices: max number of slices for each organ.
        """
        return {
            k: {
                "dice": round(2 * self._both(k) / (self._first(k) + self._second(k)), 4),
                "first_ml": self._ml(self._first(k)),
                "second_ml": self._ml(self._second(k)),
                "worst": self._worst(k)[:max_slices],
            }
            for k in self.organs
        }

    def _worst(self, k: int) -> list[int]:
        different = self.counts[:, k, :].sum(1) + self.counts[:, :, k].sum(1) - 2 * self.counts[:, k, k]
        order = np.argsort(-different, kind="stable")
        return [int(z) for z in order if different[z]]

    def _first(self, k: int) -> int:
        return int(self.counts[:, k, :].sum())

    def _second(self, k: int) -> int:
        return int(self.counts[:, :, k].sum())

    def _both(self, k: int) -> int:
        return int(self.counts[:, k, k].sum())

    def _ml(self, voxels: int) -> float:
        return round(voxels * self.voxel_ml, 3)
