"""Cumulated emissions of trained U-Nets and of prompted strategies: of this experiment, and as published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.evaluation import Published
from medsam2_atlas.experiment.reporting.cost_plots import CostLine, CostPanel
from medsam2_atlas.experiment.results import Results
from medsam2_atlas.experiment.run import Session
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.segmenters.registry import family_of
from medsam2_atlas.unet import TrainingEnergy, training_energy

Quantity = Literal["co2_grams", "watt_hours"]
_UNITS: dict[Quantity, str] = {"co2_grams": "g CO₂e", "watt_hours": "Wh"}
_GRAMS_PER_KILOGRAM = 1000
_CASCADE = "cascade"
"""Name of the published prompted method among the published emissions."""


def break_even_panels(results: Results, session: Session, figures: Published) -> list[CostPanel]:
    """Returns the published costs, and those of this experiment if the energy of a U-Net's training is known.

    Args:
        results: the records.
        session: finds the weights of the U-Nets, beside which the energy of their training is stored.
        figures: the published figures.
    """
    trained = {}
    for variant in results.main:
        if family_of(variant.segmenter).trainable and (known := _training(variant, session)) is not None:
            trained[variant] = known
    own = _own_panel(results, trained)
    return [*([own] if own is not None else []), published_panel(figures)]


def published_panel(figures: Published) -> CostPanel:
    """Returns the published emissions.

    Args:
        figures: the published figures.
    """
    lines = [CostLine("MedSAM2, cascade", 0.0, figures.energy.case_g[_CASCADE])]
    for name, kilograms in figures.energy.training_kg.items():
        lines.append(CostLine(name, kilograms * _GRAMS_PER_KILOGRAM, figures.energy.case_g[name]))
    return CostPanel("as published", _UNITS["co2_grams"], tuple(lines))


def _own_panel(results: Results, trained: dict[Variant, TrainingEnergy]) -> CostPanel | None:
    """Returns the panel of this experiment; None if a training, or its U-Net's or MedSAM2's cost per case, is unknown."""
    quantities: tuple[Quantity, ...] = ("co2_grams", "watt_hours")
    for quantity in quantities:
        lines = []
        for variant, energy in trained.items():
            training, per_case = getattr(energy, quantity), _per_case(results, variant, quantity)
            if training is not None and per_case is not None:
                name = variant.name if energy.complete else f"{variant.name} (training: at least)"
                lines.append(CostLine(name, training, per_case))
        prompted = _prompted_lines(results, quantity)
        if lines and prompted:
            return CostPanel("this evaluation", _UNITS[quantity], (*prompted, *lines))
    return None


def _prompted_lines(results: Results, quantity: Quantity) -> Sequence[CostLine]:
    variants = [v for v in results.main if family_of(v.segmenter).role == "prompted"]
    costs = {variant.name: _per_case(results, variant, quantity) for variant in variants}
    return [CostLine(name, 0.0, cost) for name, cost in costs.items() if cost is not None]


def _per_case(results: Results, variant: Variant, quantity: Quantity) -> float | None:
    """Returns the mean cost of a case; None if it is unknown for a case."""
    costs = [getattr(record.total, quantity) for record in results.of(variant).values()]
    return float(np.mean(costs)) if costs and None not in costs else None


def _training(variant: Variant, session: Session) -> TrainingEnergy | None:
    try:
        weights = session.models(variant).segmenter(variant.segmenter).weights_file()
    except MedSAM2AtlasError:
        return None
    return None if weights is None else training_energy(weights)
