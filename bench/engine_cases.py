"""The cases of `engine.py`: a CT, its organs, and the boxes of two passes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from legacy import seeded_state
from medsam2_atlas.base.resource import resource
from medsam2_atlas.demo.phantoms import draw_case
from medsam2_atlas.medsam2 import OFFICIAL, Weights, build_network, load_config, load_weights
from medsam2_atlas.prompting import BoxPrompt, OrganPrompt
from medsam2_atlas.prompting.region import prompts_from_labels

QUARTERS = (0.25, 0.5, 0.75)
SIZE = 512
GROWTH = 0.025
"""The boxes of the second pass are larger than those of the first by this share of their side, on each side."""

Section = Callable[[int, int], np.ndarray]
"""The mask `[y, x]` of an organ (by label) on a slice."""


@dataclass(frozen=True)
class Size:
    """The size of a drawn case: its slices, its organs, and the slices of each organ."""

    slices: int
    organs: int
    length: int


SIZES = {"100": Size(100, 15, 30), "235": Size(235, 15, 70)}
"""The full-size cases."""
NAMES = ("small", "14", *SIZES)


@dataclass(frozen=True)
class Ellipsoid:
    """An organ of a drawn CT. Centre and radii are (z, y, x), as shares of the CT's size; it sways along z."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    hu: int

    def section(self, z: int, shape: tuple[int, int, int]) -> np.ndarray:
        """Returns the organ's mask `[y, x]` on slice `z` of a CT of this shape (z, y, x)."""
        depth, rows, columns = shape
        height = z / (depth - 1)
        y, x = np.linspace(0, 1, rows)[:, None], np.linspace(0, 1, columns) - 0.05 * np.sin(6 * height)
        offsets = [(v - c) / r for v, c, r in zip((height, y, x), self.centre, self.radii, strict=True)]
        return sum(offset**2 for offset in offsets) < 1


THREE = (
    Ellipsoid((0.50, 0.40, 0.40), (0.38, 0.10, 0.10), 120),
    Ellipsoid((0.45, 0.50, 0.62), (0.33, 0.07, 0.12), 60),
    Ellipsoid((0.55, 0.58, 0.45), (0.40, 0.06, 0.05), 200),
)
"""The organs of the case of 14 slices."""
RADII = (
    *((0.09, 0.08), (0.06, 0.05), (0.06, 0.05), (0.04, 0.04), (0.02, 0.02), (0.17, 0.19), (0.10, 0.12), (0.03, 0.03)),
    *((0.03, 0.03), (0.05, 0.12), (0.03, 0.03), (0.03, 0.03), (0.05, 0.10), (0.06, 0.07), (0.05, 0.05)),
)
"""Radii (y, x) of the organs of full-size cases: about those of the 15 organs on an axial slice."""


@dataclass(frozen=True)
class Case:
    """A CT with the prompts of its organs, and the weights to segment it with.

    Attributes:
        name: one of `NAMES`, or a name of one's own.
        hu: the CT, `[z, y, x]` in HU.
        prompts: the prompts of the first pass: three boxes per organ.
        section: the true masks.
        weights: makes the weights.
        real: whether the weights are trained. Masks of seeded weights are meaningless, and fill most of a slice.
    """

    name: str
    hu: np.ndarray
    prompts: tuple[OrganPrompt, ...]
    section: Section
    weights: Callable[[], Weights]
    real: bool

    @property
    def passes(self) -> list[tuple[OrganPrompt, ...]]:
        """The prompts of both passes; the boxes of the second are slightly larger."""
        return [self.prompts, tuple(_grown(prompt, self.hu.shape) for prompt in self.prompts)]


def make_case(name: str) -> Case:
    """Returns one of the cases in `NAMES`."""
    if name == "small":
        return _small()
    if name == "14":
        return drawn(name, THREE, 14, seeded(load_config(OFFICIAL)))
    size = SIZES[name]
    return drawn(name, staggered(size), size.slices, seeded(load_config(OFFICIAL)))


def drawn(name: str, organs: tuple[Ellipsoid, ...], slices: int, weights: Callable[[], Weights], side: int = SIZE) -> Case:
    """Returns a case of ellipsoids in a body, with noise; labels count from 1."""
    shape = (slices, side, side)
    noise = np.random.default_rng(7)
    body = Ellipsoid((0.5, 0.5, 0.5), (10.0, 0.32, 0.42), -60)
    hu = np.empty(shape, np.int16)
    for z in range(slices):
        plane = np.where(replace(body).section(z, shape), body.hu, -1000)
        for organ in organs:
            plane[organ.section(z, shape)] = organ.hu
        hu[z] = plane + noise.normal(0, 20, plane.shape)

    def section(label: int, z: int) -> np.ndarray:
        return organs[label - 1].section(z, shape)

    prompts = []
    for label in range(1, len(organs) + 1):
        visible = [z for z in range(slices) if section(label, z).any()]
        first, last = visible[0], visible[-1]
        boxes = (int((last - first) * share) + first for share in QUARTERS)
        prompts.append(OrganPrompt(label, first, last, tuple(BoxPrompt(z, _box(section(label, z))) for z in boxes)))
    return Case(name, hu, tuple(prompts), section, weights, real=False)


def staggered(size: Size) -> tuple[Ellipsoid, ...]:
    """Returns organs that begin at equal distances along z and have the same number of slices."""
    step = (size.slices - size.length) / max(1, size.organs - 1)
    found = []
    for n in range(size.organs):
        middle = round(n * step) + (size.length - 1) / 2
        across = 0.28 + 0.44 * ((n * 7) % size.organs) / max(1, size.organs - 1)
        centre = (middle / (size.slices - 1), 0.4 + 0.2 * (n % 2), across)
        found.append(Ellipsoid(centre, (size.length / 2 / (size.slices - 1), *RADII[n % len(RADII)]), 40 + 12 * n))
    return tuple(found)


def seeded(config: DictConfig) -> Callable[[], Weights]:
    """Returns a function that makes seeded random weights of a network."""

    def make() -> Weights:
        network = build_network(config)
        network.load_state_dict(seeded_state(config))
        return Weights(network, config, Path("seeded"), "", "seeded weights")

    return make


def narrow() -> DictConfig:
    """Returns the official configuration with few channels and 64 x 64 slices, whose calls are the same in number and kind."""
    config = OmegaConf.to_container(load_config(OFFICIAL))
    assert isinstance(config, dict)
    model = config["model"]
    model["image_size"] = 64
    model["image_encoder"]["trunk"]["embed_dim"] = 8
    model["image_encoder"]["neck"]["backbone_channel_list"] = [64, 32, 16, 8]
    for attention in ("self_attention", "cross_attention"):
        model["memory_attention"]["layer"][attention]["feat_sizes"] = [4, 4]
    return OmegaConf.create(config)


def _small() -> Case:
    """Returns a part of a synthetic patient with three small organs, segmented with the demo weights in seconds."""
    patient = draw_case(99, 0, 6.0)
    part = slice(40, 57)
    labels = patient.label[part]
    prompts = prompts_from_labels(labels, (4, 11, 12), QUARTERS, "not on these slices").prompts

    def weights() -> Weights:
        return load_weights(Path(resource("weights/medsam2_demo.pt")), None)

    return Case("small", patient.image[part], prompts, lambda label, z: labels[z] == label, weights, real=True)


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return (float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1]))


def _grown(prompt: OrganPrompt, shape: tuple[int, ...]) -> OrganPrompt:
    boxes = []
    for box in prompt.boxes:
        x0, y0, x1, y1 = box.box
        across, down = GROWTH * (x1 - x0), GROWTH * (y1 - y0)
        corners = (max(0, int(x0 - across)), max(0, int(y0 - down)))
        corners += (min(shape[2] - 1, int(x1 + across + 1)), min(shape[1] - 1, int(y1 + down + 1)))
        boxes.append(BoxPrompt(box.z, corners))
    return replace(prompt, boxes=tuple(boxes))
