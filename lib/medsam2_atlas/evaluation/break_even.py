"""The number of cases from which a U-Net, with its training, costs less energy than prompted segmentation without training."""

from __future__ import annotations

import math


def break_even(training: float, per_case_prompted: float, per_case_unet: float) -> float | None:
    """Returns the number of cases N at which both approaches have cost the same.

    The U-Net costs E_training + N · E_unet, and MedSAM2 with prompts from an atlas costs N · E_medsam2. They are equal at

        N = E_training / (E_medsam2 - E_unet)

    For fewer cases, MedSAM2 costs less. Source: the report on automatic prompting of MedSAM2 by registration (CREATIS, 2025).
    There, the training of a U-Net on 300 CTs of AMOS22 costs .351 kg CO2e (2D) or .336 kg (3D), and a case costs .36 g with
    MedSAM2's cascade and .02 g with a U-Net. That gives 1032 and 988 cases; the report says about 1000.

    Args:
        training: energy or CO2e of the training.
        per_case_prompted: the same quantity for one case with MedSAM2, including registration and prompts, in the same unit.
        per_case_unet: the same for one case with the U-Net.

    Returns:
        N, not rounded; None if MedSAM2 does not cost more per case, since it then costs less for any number of cases.

    Raises:
        ValueError: if a value is negative or not finite.
    """
    values = (training, per_case_prompted, per_case_unet)
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"energies are not negative and finite: {values}")
    difference = per_case_prompted - per_case_unet
    return training / difference if difference > 0 else None
