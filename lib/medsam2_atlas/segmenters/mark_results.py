"""Results of marked organs on one CT: kept, so that only organs whose marks change are propagated again; and fused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from medsam2_atlas.medsam2 import OrganLogits
from medsam2_atlas.prompting import MarkedOrgan

_MAX_RESULTS = 16
"""Max number of results: those of 15 organs, and one for the organ that changes."""


@dataclass(frozen=True)
class MarkResult:
    """The network's result for a marked organ.

    Attributes:
        logits: the logits on the slices that were searched.
        overruled: notes on masks that contradicted a point, by slice.
    """

    logits: OrganLogits
    overruled: Mapping[int, str]


class MarkResults:
    """The last results on one CT. A new result replaces the one that was used longest ago."""

    def __init__(self) -> None:
        self._results: OrderedDict[Hashable, MarkResult] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], MarkResult]) -> MarkResult:
        """Returns the result of a key.

        Args:
            key: everything that the result depends on besides the CT and the network.
            make: computes the result, if it is not kept.
        """
        found = self._results.get(key)
        if found is None:
            found = make()
        self._results[key] = found
        self._results.move_to_end(key)
        while len(self._results) > _MAX_RESULTS:
            self._results.popitem(last=False)
        return found

    @property
    def bytes(self) -> int:
        """The memory of the logits."""
        return sum(result.logits.values.nbytes for result in list(self._results.values()))

    def __len__(self) -> int:
        return len(self._results)


@dataclass(frozen=True)
class FoundOrgan:
    """A marked organ, without its mask.

    Attributes:
        organ: organ number and marks.
        logits: the logits on the slices that were searched.
        certain: the voxels `[n, 3]` (z, y, x) that belong to the organ because of the person's points.
        overruled: notes on masks that contradicted a point, in the order of the slices.
    """

    organ: MarkedOrgan
    logits: OrganLogits
    certain: np.ndarray
    overruled: tuple[str, ...]


class MarkedLabels:
    """The label map of marked organs. A voxel of several masks gets the organ with the highest logit.

    A voxel that a person's point has given to an organ keeps that organ, whatever the logits of the others.

    Args:
        shape: the shape (z, y, x) of the label map.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._labels = np.zeros(shape, np.uint8)
        self._found: dict[int, FoundOrgan] = {}

    @property
    def found(self) -> list[FoundOrgan]:
        """The organs, in the order in which they were added."""
        return list(self._found.values())

    def add(self, found: FoundOrgan, mask: np.ndarray) -> None:
        """Adds an organ, which must not have been added before.

        Args:
            found: the organ.
            mask: its mask `[z, y, x]`, bool.
        """
        number, shape = found.organ.label, (self._labels.shape[1], self._labels.shape[2])
        for z in np.flatnonzero(mask.any((1, 2))).tolist():
            plane, here = self._labels[z], mask[z].copy()
            contested = np.unique(plane[here & (plane > 0)])
            if contested.size:
                own = found.logits.plane(z, shape).numpy()
                for other in contested.tolist():
                    here &= (plane != other) | (own > self._found[other].logits.plane(z, shape).numpy())
            plane[here] = number
        self._found[number] = found

    def fused(self) -> np.ndarray:
        """Returns the label map `[z, y, x]`, uint8."""
        labels = self._labels.copy()
        for number, found in self._found.items():
            labels[tuple(found.certain.T)] = number
        return labels
