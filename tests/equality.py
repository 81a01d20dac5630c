"""The engine and the official predictor on the same seeded weights and volume, with prompts for both.

The official weights are not available here, so networks get seeded random weights. A comparison is meaningful only if memories
and pointers affect the result; the mutants of `test_equality_mutants.py` prove that.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from scipy import ndimage

from legacy import (
    Change,
    Decision,
    Place,
    decisions,
    legacy_logits,
    legacy_marked,
    legacy_predictor,
    seeded_state,
    with_absent_organs,
)
from medsam2_atlas.base.choices import Loop
from medsam2_atlas.medsam2 import MedSAM2Volume, OrganLogits, Weights, build_network
from medsam2_atlas.medsam2.preprocessing import to_uint8
from medsam2_atlas.prompting import BoxPrompt, MarkedOrgan, OrganPrompt, SliceMarks
from precision import computing_in
from ties import Tie, assert_equal_except_behind_ties

FLOAT64_TOLERANCE = 1e-6
"""Max difference of logits in float64, at image resolution."""

BOX = (30, 20, 70, 60)


@dataclass(frozen=True)
class Case:
    """A prompted organ: boxes with a loop, or marks."""

    organ: OrganPrompt | MarkedOrgan
    loop: Loop = "symmetric"

    @property
    def slices(self) -> range:
        return range(self.organ.z_min, self.organ.z_max + 1)

    @property
    def ways(self) -> list[list[int]]:
        """The slices of each direction, in the order in which they are segmented."""
        if isinstance(self.organ, MarkedOrgan):
            starts = [marks.z for marks in self.organ.defining]
            first, above, below = min(starts), starts, starts
        else:
            first = self.organ.middle.z
            others = [box.z for box in self.organ.boxes if box.z != first]
            above = [first, *(z for z in others if z > first)]
            below = [first, *(z for z in others if z < first and self.loop == "symmetric")]
        up, down = range(first, self.organ.z_max + 1), range(first, self.organ.z_min - 1, -1)
        return [[*starts, *(z for z in way if z not in starts)] for starts, way in ((above, up), (below, down))]


def boxes(z_min: int, z_max: int, *slices: int) -> OrganPrompt:
    """Returns a prompt with slightly different boxes on some slices."""
    return OrganPrompt(1, z_min, z_max, tuple(BoxPrompt(z, (30 + z % 5, 20, 70 + z % 3, 60)) for z in slices))


def cases(last: int, low: int, middle: int, high: int) -> dict[str, Case]:
    """Returns cases on slices 0 to `last`, with prompts on up to three slices. The published loop corrects the low slice."""
    marks = {
        "a point": (SliceMarks(middle, None, ((50, 40),)),),
        "points on and off": (SliceMarks(middle, None, ((50, 40), (60, 45)), ((20, 20),)),),
        "a box with points": (SliceMarks(high, BOX, ((45, 35),), ((66, 56),)),),
        "boxes and a point on three slices": (
            SliceMarks(low, (35, 25, 75, 60)),
            SliceMarks(middle, None, ((50, 40),)),
            SliceMarks(high, BOX, (), ((66, 56),)),
        ),
    }
    three = boxes(0, last, low, middle, high)
    assert three.middle.z == middle
    return {
        "one box": Case(boxes(0, last, high)),
        "three boxes": Case(three),
        "three boxes, published loop": Case(three, "published"),
        **{name: Case(MarkedOrgan(1, 0, last, own)) for name, own in marks.items()},
    }


def ct(slices: int) -> np.ndarray:
    """Returns a smooth random volume in HU, `[z, y, x]`."""
    walk = np.cumsum(np.random.default_rng(0).normal(0, 1, (slices, 96, 110)), 0)
    smooth = ndimage.gaussian_filter(walk, (1, 6, 6))
    return np.asarray((smooth - smooth.min()) / np.ptp(smooth) * 600 - 100)


@dataclass(frozen=True)
class Official:
    """The official predictor's logits `[n, y, x]` at image resolution, and its decisions by slice."""

    logits: np.ndarray
    decisions: dict[int, Decision]


class Both:
    """The official predictor and engines on the same weights and volume.

    Args:
        config: the network's configuration.
        slices: the number of slices of the volume.
        device: the device of both.
        dtype: the precision of both.
        official_features: whether the engines get the official encoder's features, which saves most of the time.
        absent: whether the organ is absent from some slices.

    Attributes:
        hu: the volume in HU, `[z, y, x]`.
        narrow: the functions that returned tensors of a lower precision so far.
    """

    def __init__(
        self,
        config: DictConfig,
        slices: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        official_features: bool = False,
        absent: bool = False,
    ) -> None:
        self.hu, self.narrow = ct(slices), set[str]()
        self._config, self._device, self._dtype, self._official_features = config, device, dtype, official_features
        self._known: dict[Case, Official] = {}
        state = with_absent_organs(seeded_state(config)) if absent else seeded_state(config)
        with computing_in(dtype):
            self.predictor = _in(dtype, legacy_predictor(config, state)).to(device)
            self._network = build_network(config)
            self._network.load_state_dict(state)
            self._network = _in(dtype, self._network).to(device)
        self.predictor.forward_image = once_for_each_slice(self.predictor.forward_image)
        self.engine = self.new_engine()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Computes in the precision of both."""
        with computing_in(self._dtype) as requests:
            yield
        self.narrow |= requests.narrow

    def new_engine(self, change: Callable[[Any], None] = lambda network: None, batch: int = 1) -> MedSAM2Volume:
        """Returns an engine.

        Args:
            change: changes the network before it is prepared for inference.
            batch: the size of batches. The official predictor's is 1; another size changes the last digits.
        """
        with self.computing():
            network = copy.deepcopy(self._network)
            change(network)
            weights = Weights(network, self._config, Path("seeded"), "", "")
            if self._official_features:
                encode = self.predictor.forward_image
                weights.prepared.encode = lambda images: tuple(encode(images)["backbone_fpn"])  # type: ignore[method-assign]
            return MedSAM2Volume(weights, self.hu, batch=batch)

    def official(self, case: Case, changes: Mapping[Place, Change] | None = None) -> Official:
        """Returns the official predictor's result, with some decisions changed."""
        if case in self._known and not changes:
            return self._known[case]
        planes = to_uint8(self.hu)
        with self.computing(), decisions(self.predictor, changes) as found:
            if isinstance(case.organ, MarkedOrgan):
                logits = legacy_marked(self.predictor, planes, case.organ)
            else:
                logits = legacy_logits(self.predictor, planes, case.organ, case.loop)
        if not changes:
            self._known[case] = Official(logits, found)
        return Official(logits, found)

    def ours(self, case: Case, engine: MedSAM2Volume | None = None) -> OrganLogits:
        """Returns the logits of an engine, of `engine` by default."""
        with self.computing():
            if isinstance(case.organ, MarkedOrgan):
                return (engine or self.engine).segment_marked(case.organ, patience=len(self.hu))
            return (engine or self.engine).segment([case.organ], loop=case.loop)[case.organ.label]

    def difference(self, case: Case, engine: MedSAM2Volume | None = None) -> float:
        """Returns the max difference of an engine's logits from the official predictor's, at image resolution."""
        theirs = self.official(case).logits
        assert (theirs > 0).any() and (theirs < 0).any(), "there is something to compare"
        ours = self.ours(case, engine)
        planes = np.stack([ours.plane(z, self.hu.shape[1:]).numpy() for z in case.slices])
        return float(np.abs(planes - theirs).max())

    def assert_equal_except_behind_ties(self, case: Case) -> list[Tie]:
        """Asserts that logits are equal up to rounding, except behind ties, and returns the ties."""
        values = self.ours(case).values.to(self._device)
        ours = {z: values[n] for n, z in enumerate(case.slices)}
        size = int(self._config.model.image_size)
        return assert_equal_except_behind_ties(lambda changes: self.official(case, changes).decisions, ours, case.ways, size)


def _in(dtype: torch.dtype, network: Any) -> Any:
    """Converts a network; unlike `Module.to(dtype)`, `double` leaves complex tables complex."""
    return network.double() if dtype == torch.float64 else network


def once_for_each_slice(encode: Callable[[torch.Tensor], dict[str, Any]]) -> Callable[[torch.Tensor], dict[str, Any]]:
    """Caches the official encoder, which takes most of the time; prompts have no effect on it."""
    kept: dict[bytes, dict[str, Any]] = {}

    def encoded(images: torch.Tensor) -> dict[str, Any]:
        key = hashlib.sha256(images.cpu().numpy().tobytes()).digest()
        if key not in kept:
            kept[key] = encode(images)
        return {name: list(value) if isinstance(value, list) else value for name, value in kept[key].items()}

    return encoded
