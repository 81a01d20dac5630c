"""The parameters of a synthetic patient: body, pose, organs, fullness, sex and contrast phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Sex = Literal["female", "male"]
Phase = Literal["native", "late arterial", "portal venous"]

# Attenuation (HU) of enhancing tissues by phase; typical values of abdominal CT at 120 kV.
ENHANCEMENT: dict[Phase, dict[str, float]] = {
    "native": dict(liver=58, spleen=46, kidney=32, medulla=30, pancreas=40, adrenal=28, aorta=40, vein=38, portal=40,
                   wall=38, uterus=45, prostate=38, muscle=52),
    "late arterial": dict(liver=78, spleen=125, kidney=185, medulla=105, pancreas=112, adrenal=75, aorta=290, vein=88,
                          portal=130, wall=75, uterus=90, prostate=60, muscle=58),
    "portal venous": dict(liver=112, spleen=122, kidney=180, medulla=165, pancreas=92, adrenal=72, aorta=155, vein=140,
                          portal=170, wall=68, uterus=92, prostate=62, muscle=62),
}  # fmt: skip


@dataclass(frozen=True)
class Patient:
    """One synthetic patient. Lengths are in mm, angles in degrees, attenuation in HU.

    `generator_seed` seeds all random choices of the anatomy, so that a patient is reproducible.
    """

    sex: Sex
    phase: Phase
    scale: tuple[float, float, float]
    fat: float
    visceral_fat: float
    pose: tuple[float, float, float]
    scoliosis: float
    lordosis: float
    stomach_fullness: float
    bladder_fullness: float
    liver_size: float
    spleen_size: float
    kidney_size: float
    table: bool
    noise: float
    generator_seed: int

    def hu(self, tissue: str) -> float:
        """Returns the attenuation (HU) of an enhancing tissue in this patient's phase."""
        return ENHANCEMENT[self.phase][tissue]


def draw_patient(generator: np.random.Generator) -> Patient:
    """Draws a patient from the population."""
    sex: Sex = "female" if generator.random() < 0.5 else "male"
    phase: Phase = ("native", "late arterial", "portal venous")[int(generator.choice(3, p=[0.1, 0.25, 0.65]))]  # type: ignore[assignment]
    size = float(generator.normal(1.0 if sex == "male" else 0.95, 0.04))
    fat = float(np.clip(generator.gamma(4.0, 4.5) + (6 if sex == "female" else 3), 7, 42))
    girth = 1 + 0.004 * (fat - 18)
    scale = (
        size * girth * float(generator.normal(1, 0.03)),
        size * girth * float(generator.normal(1, 0.04)),
        size * float(generator.normal(1, 0.03)),
    )
    return Patient(
        sex=sex,
        phase=phase,
        scale=scale,
        fat=fat,
        visceral_fat=float(np.clip(generator.normal(0, 1), -1.5, 1.5)),
        pose=(float(generator.normal(0, 2.0)), float(generator.normal(0, 2.0)), float(generator.normal(0, 3.0))),
        scoliosis=float(generator.normal(0, 4.0)),
        lordosis=float(generator.normal(12, 4.0)),
        stomach_fullness=float(generator.uniform(0.0, 1.0)),
        bladder_fullness=float(generator.uniform(0.0, 1.0)),
        liver_size=float(generator.normal(1.0, 0.05)),
        spleen_size=float(generator.normal(1.0, 0.1)),
        kidney_size=float(generator.normal(1.0, 0.06)),
        table=bool(generator.random() < 0.6),
        noise=float(generator.uniform(6, 13)),
        generator_seed=int(generator.integers(2**31)),
    )
