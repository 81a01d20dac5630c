"""The number of cases from which a trained U-Net costs less energy than MedSAM2."""

from __future__ import annotations

import pytest

from medsam2_atlas.evaluation.break_even import break_even


@pytest.mark.parametrize(("training", "cases"), [(351.0, 1032.35), (336.0, 988.24)])
def test_the_published_values_give_about_1000_cases(training: float, cases: float) -> None:
    found = break_even(training, 0.36, 0.02)  # g CO2e: U-Net 2D and 3D; CREATIS 2025
    assert found == pytest.approx(cases, abs=0.01)


def test_both_approaches_cost_the_same_at_the_break_even() -> None:
    cases = break_even(12.0, 5.0, 2.0)
    assert cases == 4
    assert 12.0 + cases * 2.0 == cases * 5.0


@pytest.mark.parametrize("prompted", [0.0, 0.01, 0.02])
def test_there_is_none_if_medsam2_costs_no_more_per_case(prompted: float) -> None:
    assert break_even(351.0, prompted, 0.02) is None


def test_a_network_that_cost_nothing_pays_off_from_the_first_case() -> None:
    assert break_even(0.0, 0.36, 0.02) == 0


@pytest.mark.parametrize("values", [(-1.0, 1.0, 0.0), (1.0, float("nan"), 0.0), (1.0, 1.0, float("inf"))])
def test_impossible_energies_are_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="energies"):
        break_even(*values)
