"""The frame in which a synthetic patient is built, and the list of parts that the rooms of the body add to.

The frame is (x left, y posterior, z superior) in mm, its origin midway between the kidneys of an average adult. Sizes
and places follow textbook anatomy and were compared with real label maps (see `tests/demo/phantoms`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsam2_atlas.demo.phantoms.patient import Patient
from medsam2_atlas.demo.phantoms.shapes import Field, Solid

FAT, GAS, LUNG, BONE, MARROW, DISC, WATER, STOOL = -100.0, -950.0, -850.0, 620.0, 230.0, 85.0, 8.0, 25.0
TOP, BOTTOM = 190.0, -285.0
"""Highest and lowest z (mm) at which the anatomy is complete."""


@dataclass(frozen=True)
class Part:
    """A solid of one tissue: attenuation in HU, and its label: 1..15, 0 for none, None to keep what lies below."""

    solid: Solid
    hu: float
    label: int | None = 0


class Build:
    """Draws the details of one patient's anatomy and collects its parts."""

    def __init__(self, patient: Patient) -> None:
        self.patient = patient
        self.rng = np.random.default_rng(patient.generator_seed)
        self.parts: list[Part] = []

    def add(self, solid: Solid, hu: float, label: int | None = 0) -> Solid:
        """Paints a solid over what there is so far."""
        self.parts.append(Part(solid, hu, label))
        return solid

    def at(self, *centre: float, spread: float = 3.0) -> np.ndarray:
        """A place near `centre`, moved by a normal deviate of `spread` mm."""
        return np.asarray(centre, float) + self.rng.normal(0, spread, 3)

    def line(self, *points: tuple[float, float, float], spread: float = 3.0) -> np.ndarray:
        """Control points of a tube: moved together by `spread` and each by a third of it."""
        line = np.asarray(points, float) + self.rng.normal(0, spread, 3)
        return line + self.rng.normal(0, spread / 3, line.shape)

    def size(self, *lengths: float, spread: float = 0.06) -> np.ndarray:
        """Lengths scaled together and each by a little."""
        values = np.asarray(lengths, float)
        return values * max(self.rng.normal(1, spread), 0.6) * self.rng.normal(1, spread / 2, len(values))

    def rough(self, solid: Solid, amplitude: float, wavelengths: tuple[float, float] = (30, 80)) -> Solid:
        """A solid with an uneven surface, `amplitude` mm deep."""
        return solid.roughened(Field(self.rng, amplitude, wavelengths))
