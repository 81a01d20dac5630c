"""Displaces prompts by a given distance, to measure how much a network's result depends on the accuracy of its prompts.

`shift`  moves a prompt as a whole, in a random direction, as registration that is off by that distance does.
`scale`  moves all sides of its boxes and both ends of its range outward, or inward if the distance is negative.

Boxes move by fractions of pixels. Slices are whole: a displacement along z is rounded up or down, at random, with the
probabilities for which its expectation is exact. With slices of 5 mm, 3 mm along z are therefore one slice in 60 % of the
prompts and none in 40 %, and their mean stays 3 mm; rounding to the nearest slice would move all of them by 5 mm.

Direction and rounding are drawn once for each organ of a CT, whatever the distance. As the distance grows, a prompt follows one
straight line and never moves back.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.volume import Geometry
from medsam2_atlas.prompting.prompt import BoxPrompt, OrganPrompt, Prompts

JitterKind = Literal["shift", "scale"]
"""How prompts are displaced: as a whole, or each border."""

_MAX_MM = 1000.0
"""Longer than most scans of the trunk."""
_LEFT = "the jitter moved its prompt out of the volume"


@dataclass(frozen=True)
class Jitter:
    """A displacement of prompts. `str` returns its text form, such as `shift=10` or `scale=-5`.

    Attributes:
        kind: `shift` moves prompts as a whole, `scale` moves their borders.
        mm: the distance in mm. For `scale`, negative distances move borders inward.

    Raises:
        ValueError: the kind is unknown; the distance is above 1000 mm, not a number, or negative for `shift`.
    """

    kind: JitterKind
    mm: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "mm", float(self.mm) + 0.0)  # one text form for 5 and 5.0, and for 0 and −0
        if self.kind not in get_args(JitterKind):
            raise ValueError(f"{self.kind} is not a kind of jitter")
        if not abs(self.mm) <= _MAX_MM or (self.kind == "shift" and self.mm < 0):
            raise ValueError(f"{self.mm} mm is not a distance for {self.kind}")

    def __str__(self) -> str:
        return f"{self.kind}={repr(self.mm).removesuffix('.0')}"

    @classmethod
    def parse(cls, text: str) -> Jitter:
        """Returns the jitter of a text form.

        Args:
            text: `shift=MM` or `scale=MM`.

        Raises:
            InputError: the text has another form.

        >>> Jitter.parse("scale=-5")
        Jitter(kind='scale', mm=-5.0)
        """
        kind, _, mm = text.partition("=")
        try:
            return cls(kind, float(mm))  # type: ignore[arg-type]  # checked by the class
        except ValueError as error:
            raise InputError(
                repr(text), "is not a jitter.", "Write shift=MM (0 to 1000) or scale=MM (−1000 to 1000; negative: inward)."
            ) from error


def jittered(prompts: Prompts, jitter: Jitter, geometry: Geometry, digest: str) -> Prompts:
    """Displaces prompts within the volume. They lose their confidence, which was estimated for the original boxes.

    `shift` moves boxes and range of a prompt by the same vector, along the axes of the volume. The direction is uniform on the
    sphere, and a function of CT and organ. Boxes that leave the volume are dropped; if the range is still partly inside, the
    nearest box moves to its nearest slice inside. A prompt that leaves the volume is dropped, with a reason in `missing`.

    `scale` moves the four sides of each box and both ends of the range by the same distance. Boxes stay on their slices. If the
    distance is negative, at least one pixel of each box remains, around its middle, and the range still contains all boxes.

    Args:
        prompts: the prompts, in voxel indices of the volume.
        jitter: the displacement.
        geometry: the volume's grid.
        digest: a text that identifies the CT, such as `Volume.digest`.
    """
    kept, missing = [], dict(prompts.missing)
    for prompt in prompts.prompts:
        draw = _Draw.of(digest, prompt.label)
        inside = _clipped(_MOVES[jitter.kind](prompt, jitter.mm, geometry, draw), geometry)
        if inside is None:
            missing[prompt.label] = _LEFT
        else:
            kept.append(replace(inside, confidence=None))
    origins = {p.label: prompts.origins[p.label] for p in kept if p.label in prompts.origins}
    return Prompts(tuple(kept), missing, origins)


@dataclass(frozen=True)
class _Draw:
    """The random values of one organ of a CT.

    Attributes:
        direction: a unit vector `[3]` (x, y, z).
        threshold: 0..1; a fraction of a slice is rounded up if it reaches 1 − threshold.
    """

    direction: np.ndarray
    threshold: float

    @classmethod
    def of(cls, digest: str, organ: int) -> _Draw:
        """Draws the values from a hash, which unlike NumPy's generators is the same in all versions."""
        hashed = hashlib.blake2b(f"{digest}/{organ}".encode(), digest_size=18).digest()
        # 48 bits are exact in double precision, so that no value is rounded to 1.
        height, turn, threshold = (int.from_bytes(hashed[n : n + 6], "big") / 2**48 for n in (0, 6, 12))
        # On a sphere, heights are uniform, too (Archimedes).
        z, angle = 2 * height - 1, 2 * math.pi * turn
        across = math.sqrt(1 - z * z)
        return cls(np.array([across * math.cos(angle), across * math.sin(angle), z]), threshold)

    def slices(self, count: float) -> int:
        """Returns a number of slices, rounded up or down so that its expectation over all draws is `count`."""
        return math.floor(count + self.threshold)


def _shifted(prompt: OrganPrompt, mm: float, geometry: Geometry, draw: _Draw) -> OrganPrompt:
    x, y, z = (draw.direction * mm / geometry.spacing).tolist()
    up = draw.slices(z)
    boxes = []
    for box in prompt.boxes:
        x_min, y_min, x_max, y_max = box.box
        boxes.append(BoxPrompt(box.z + up, (x_min + x, y_min + y, x_max + x, y_max + y)))
    return replace(prompt, z_min=prompt.z_min + up, z_max=prompt.z_max + up, boxes=tuple(boxes))


def _scaled(prompt: OrganPrompt, mm: float, geometry: Geometry, draw: _Draw) -> OrganPrompt:
    x, y, z = (mm / step for step in geometry.spacing)
    boxes = []
    for box in prompt.boxes:
        x_min, y_min, x_max, y_max = box.box
        (x_min, x_max), (y_min, y_max) = _grown(x_min, x_max, x), _grown(y_min, y_max, y)
        boxes.append(BoxPrompt(box.z, (x_min, y_min, x_max, y_max)))
    more = draw.slices(z)
    z_min, z_max = min(prompt.z_min - more, boxes[0].z), max(prompt.z_max + more, boxes[-1].z)
    return replace(prompt, z_min=z_min, z_max=z_max, boxes=tuple(boxes))


_MOVES: dict[JitterKind, Callable[[OrganPrompt, float, Geometry, _Draw], OrganPrompt]] = {"shift": _shifted, "scale": _scaled}
"""Functions that displace a prompt, by kind; the result may lie outside the volume."""


def _grown(lower: float, upper: float, more: float) -> tuple[float, float]:
    """Returns the first and last pixel of a side after both moved outward by `more` pixels; at least one pixel remains."""
    middle, half = (lower + upper) / 2, max(0.0, (upper - lower) / 2 + more)
    return middle - half, middle + half


def _clipped(prompt: OrganPrompt, geometry: Geometry) -> OrganPrompt | None:
    """Returns the part of a prompt inside the volume, with a note if anything lies outside; None if nothing is inside."""
    z_min, z_max = max(0, prompt.z_min), min(geometry.size[2] - 1, prompt.z_max)
    visible = [cut for box in prompt.boxes if (cut := _cut(box, geometry)) is not None]
    if z_min > z_max or not visible:
        return None
    boxes = [box for box in visible if z_min <= box.z <= z_max]
    notes = list(prompt.notes)
    if not boxes:
        nearest = min(visible, key=lambda box: max(z_min - box.z, box.z - z_max))
        boxes = [replace(nearest, z=min(max(nearest.z, z_min), z_max))]
        notes.append(f"the jitter moved its boxes out of the volume: the nearest one lies on slice {boxes[0].z}")
    elif len(boxes) < len(prompt.boxes):
        notes.append(f"the jitter moved {len(prompt.boxes) - len(boxes)} of its boxes out of the volume")
    elif (z_min, z_max, *boxes) != (prompt.z_min, prompt.z_max, *prompt.boxes):
        notes.append("the jittered prompt is cut at the border of the volume")
    return replace(prompt, z_min=z_min, z_max=z_max, boxes=tuple(boxes), notes=tuple(notes))


def _cut(box: BoxPrompt, geometry: Geometry) -> BoxPrompt | None:
    """Returns the part of a box inside the volume's slices, whatever its slice; None if there is none."""
    x_min, y_min, x_max, y_max = box.box
    corners = (max(0.0, x_min), max(0.0, y_min), min(geometry.size[0] - 1.0, x_max), min(geometry.size[1] - 1.0, y_max))
    return BoxPrompt(box.z, corners) if corners[0] <= corners[2] and corners[1] <= corners[3] else None
