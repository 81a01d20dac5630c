"""The coordinate frame of a synthetic patient, and the list of its parts.

The frame is (x left, y posterior, z superior) in mm; its origin is midway between the kidneys of an average adult. Sizes and
positions follow textbook anatomy and were compared with real label maps (see `tests/demo/phantoms`).
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
    """A solid of one tissue.

    Attributes:
        solid: its shape.
        hu: attenuation in HU.
        label: organ number 1..15; 0 for no organ; None keeps the label of the part below.
    """

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
        """Adds a solid of `hu` HU as the topmost part, and returns it; `label` as in `Part`."""
        self.parts.append(Part(solid, hu, label))
        return solid

    def at(self, *centre: float, spread: float = 3.0) -> np.ndarray:
        """Returns a random point `[3]` (x, y, z) in mm near `centre`, with a standard deviation of `spread` mm."""
        return np.asarray(centre, float) + self.rng.normal(0, spread, 3)

    def line(self, *points: tuple[float, float, float], spread: float = 3.0) -> np.ndarray:
        """Returns control points `[n, 3]` (x, y, z) of a tube in mm, moved at random.

        All points move together with a standard deviation of `spread` mm, and each point by a third of it.
        """
        line = np.asarray(points, float) + self.rng.normal(0, spread, 3)
        return line + self.rng.normal(0, spread / 3, line.shape)

    def size(self, *lengths: float, spread: float = 0.06) -> np.ndarray:
        """Returns lengths `[n]` in mm, scaled at random: all together by `spread`, and each by half of it."""
        values = np.asarray(lengths, float)
        return values * max(self.rng.normal(1, spread), 0.6) * self.rng.normal(1, spread / 2, len(values))

    def rough(self, solid: Solid, amplitude: float, wavelengths: tuple[float, float] = (30, 80)) -> Solid:
        """Returns a solid with an uneven surface.

        Args:
            solid: the smooth solid.
            amplitude: standard deviation of the surface's displacement, in mm.
            wavelengths: range of wavelengths of the displacement, in mm.
        """
        return solid.roughened(Field(self.rng, amplitude, wavelengths))
