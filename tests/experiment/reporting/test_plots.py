"""The drawn plots of an experiment."""

from __future__ import annotations

from pathlib import Path

from made_results import results
from medsam2_atlas.experiment import Results, Variant
from medsam2_atlas.experiment.reporting.cost_plots import CostLine, CostPanel
from medsam2_atlas.experiment.reporting.plots import accuracy_plots, cost_plots, curve_plots, write_plots


def test_the_confusion_of_the_best_variant_comes_first_and_others_are_folded() -> None:
    found = results(("unet_3d", "D"), cases=2)
    plots = accuracy_plots(found, Variant(segmenter="D"))
    assert [(plot.name, plot.folded) for plot in plots] == [
        ("dice", False),
        ("prompts", False),
        ("volumes", False),
        ("confusion-D", False),
        ("confusion-unet_3d", True),
    ]
    assert "Organs that only one label map contains are not drawn: D 1." in plots[2].caption


def test_plots_without_values_are_omitted() -> None:
    empty = Results((), (6,))
    assert accuracy_plots(empty, None) == []
    assert cost_plots(empty, [CostPanel("Own", "Wh", ())]) == []
    assert curve_plots("jitter", "Jitter", "", []) == []


def test_the_caption_states_from_which_case_on_a_trained_network_costs_less() -> None:
    own = CostPanel("Own", "Wh", (CostLine("D", 0, 0.3), CostLine("unet_3d", 20, 0.1)))
    (_, plot) = cost_plots(results(("D",), cases=1), [own])
    assert "Own: unet_3d costs less than D from 100 cases on." in plot.caption
    (_, plot) = cost_plots(results(("D",), cases=1), [CostPanel("Own", "Wh", own.lines[:1])])
    assert "No trained network becomes cheaper." in plot.caption


def test_plots_are_written_as_svg_files(tmp_path: Path) -> None:
    plots = cost_plots(results(("D",), cases=1))
    write_plots(plots, tmp_path / "plots")
    assert (tmp_path / "plots" / "seconds.svg").read_bytes() == plots[0].content
