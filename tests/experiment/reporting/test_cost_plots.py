"""Values behind the plots of cost."""

from __future__ import annotations

import pytest

from made_results import organ, record
from medsam2_atlas.experiment import Cost, Results, Variant
from medsam2_atlas.experiment.reporting.cost_plots import CostLine, CostPanel, break_even_plot, seconds_plot, stage_seconds

D = Variant(segmenter="D")


def timed(total: float | None, **stages: float | None) -> Results:
    costs = {name: Cost(seconds=seconds) for name, seconds in stages.items()}
    first = record("a", D, [organ(6, 0.9)]).model_copy(update={"total": Cost(seconds=total), "stages": costs})
    second = record("b", D, [organ(6, 0.9)])  # 12.5 s, of which 10 s in the stage network
    return Results((first, second), (6,))


def test_stages_are_means_over_cases_and_add_up_to_the_mean_total() -> None:
    found = stage_seconds(timed(7.5, reading=1.5, network=4.0), D)
    assert found == {"reading": 0.75, "network": 7.0, "other": pytest.approx((2.0 + 2.5) / 2)}
    assert sum(found.values()) == pytest.approx((7.5 + 12.5) / 2)


def test_a_case_without_a_time_does_not_count() -> None:
    assert stage_seconds(timed(None, network=100.0), D) == {"network": 10.0, "other": 2.5}
    assert stage_seconds(timed(5.0, network=None), D)["network"] == 5.0  # of one case of two


def test_there_is_no_plot_without_times() -> None:
    found = timed(None)
    assert seconds_plot(Results(found.records[:1], found.organs)) is None
    figure = seconds_plot(found)
    assert figure is not None
    assert "12.5 s" in [text.get_text().strip() for text in figure.axes[0].texts]


def test_the_published_costs_cross_at_about_a_thousand_cases() -> None:
    medsam2, unet_2d, unet_3d = CostLine("MedSAM2", 0, 0.36), CostLine("2D", 351, 0.02), CostLine("3D", 336, 0.02)
    panel = CostPanel("Published", "g CO₂e", (medsam2, unet_2d, unet_3d))
    assert [(a.name, b.name, round(cases)) for a, b, cases in panel.crossings] == [
        ("MedSAM2", "2D", 1032),
        ("MedSAM2", "3D", 988),
    ]
    (axes,) = break_even_plot([panel]).axes
    assert [note.get_text() for note in axes.texts] == ["1032 cases", "988 cases"]
    assert axes.get_ylabel() == "cumulated cost (g CO₂e)"


def test_a_network_that_costs_more_per_case_never_becomes_cheaper() -> None:
    panel = CostPanel("Own", "Wh", (CostLine("D", 0, 0.1), CostLine("unet_3d", 5, 0.2)))
    assert panel.crossings == []
    assert break_even_plot([panel]).axes[0].get_xlim() == (0, 1000)
