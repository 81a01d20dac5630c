"""Draws the scan of a synthetic patient: field of view, slice thickness, tilt, orientation of the file."""

from __future__ import annotations

import itertools

import numpy as np

from medsam2_atlas.demo.phantoms.frame import BOTTOM, TOP
from medsam2_atlas.demo.phantoms.patient import Patient
from medsam2_atlas.demo.phantoms.render import Scan

ORIENTATIONS = ["".join(pick) for axes in itertools.permutations(("RL", "AP", "IS")) for pick in itertools.product(*axes)]
"""The 48 possible orientations of an image's axes relative to the patient's."""

_USUAL = ("LPS", "RAS", "LAS", "RPS")


def draw_scan(generator: np.random.Generator, patient: Patient, spacing: float | None = None) -> Scan:
    """Draws a scan of the abdomen; some scans are cut at the top, the bottom or the sides.

    Args:
        generator: random generator.
        patient: the patient; size and fat determine the field of view.
        spacing: isotropic spacing in mm; without it, 2 to 3.2 mm in plane and 1.5 to 5 mm between slices.
    """
    if spacing is None:
        in_plane = float(generator.uniform(2.0, 3.2))
        slices = float(generator.choice([1.5, 2.0, 2.5, 3.0, 4.0, 5.0], p=[0.08, 0.12, 0.15, 0.35, 0.15, 0.15]))
    else:
        in_plane = slices = spacing
    sx, sy, sz = patient.scale
    bottom, top = generator.uniform(BOTTOM, BOTTOM + 22) * sz, generator.uniform(125, TOP - 5) * sz
    cut = generator.random()
    if cut < 0.12:
        top = generator.uniform(40, 100) * sz
    elif cut < 0.24:
        bottom = generator.uniform(-200, -70) * sz
    width = 2 * (150 + patient.fat) * sx + generator.uniform(8, 45)
    if generator.random() < 0.12:
        width *= generator.uniform(0.86, 0.93)
    depth = width * generator.uniform(0.74, 1.0)
    tilt = generator.normal(0, 2.0, 3) if spacing is None and generator.random() < 0.2 else np.zeros(3)
    size = (round(width / in_plane), round(depth / in_plane), round((top - bottom) / slices))
    origin = (
        -width / 2 + generator.normal(0, 6),
        -36 * sy - depth / 2 + generator.normal(0, 6),
        bottom,
    )
    return Scan(size, (in_plane, in_plane, slices), origin, (float(tilt[0]), float(tilt[1]), float(tilt[2])))


def draw_orientation(generator: np.random.Generator) -> str:
    """Draws the orientation code of the file: one of four common ones (70 %), or any of the 48."""
    return str(generator.choice(_USUAL if generator.random() < 0.7 else ORIENTATIONS))
