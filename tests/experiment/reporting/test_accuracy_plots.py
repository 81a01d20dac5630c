"""Values behind the plots of accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from made_results import organ, record, results
from medsam2_atlas.experiment import Results, Variant
from medsam2_atlas.experiment.reporting.accuracy_plots import (
    binned_medians,
    dice_plot,
    limits_of_agreement,
    prompt_pairs,
    prompt_plot,
    volume_pairs,
    volume_plot,
)

D = Variant(segmenter="D")


def of(*organs: object, **fields: object) -> Results:
    return Results((record("a", D, organs, **fields),), (4, 6))  # type: ignore[arg-type]


def test_dots_join_the_error_of_a_prompt_with_the_dice_of_the_same_organ() -> None:
    found = of(organ(4, 0.5, centre_mm=20.0), organ(6, 0.9, centre_mm=3.0), organ(9, 0.1, centre_mm=50.0))
    assert prompt_pairs(found, D).tolist() == [[20.0, 0.5], [3.0, 0.9]]  # organ 9 is not listed
    assert prompt_pairs(of(organ(4, 0.5, centre_mm=None)), D).shape == (0, 2)


def test_medians_are_taken_in_bins_with_at_least_three_dots() -> None:
    pairs = np.array([[1, 0.9], [2, 0.8], [4, 0.1], [12, 0.5], [13, 0.6], [70, 0.1], [80, 0.2], [90, 0.3]], float)
    np.testing.assert_allclose(binned_medians(pairs), [[2, 0.8], [80, 0.2]])
    assert binned_medians(pairs[:2]).shape == (0, 2)


def test_prompts_without_errors_are_not_drawn() -> None:
    assert prompt_plot(of(organ(4, 0.5, centre_mm=0.0))) is None
    assert prompt_plot(of(organ(4, 0.5, centre_mm=None))) is None
    figure = prompt_plot(of(organ(4, 0.5, centre_mm=200.0)))
    assert figure is not None
    (axes,) = figure.axes
    assert axes.lines[0].get_xdata().tolist() == [60.0]  # type: ignore[union-attr]


def test_all_panels_show_the_largest_error_of_any_variant() -> None:
    far, near = (record("a", Variant(segmenter=name), [organ(6, 0.5, centre_mm=mm)]) for name, mm in (("A", 40.0), ("D", 3.0)))
    figure = prompt_plot(Results((far, near), (6,)))
    assert figure is not None
    assert [axes.get_xlim()[1] for axes in figure.axes] == [41.0, 41.0]


def test_volumes_that_only_one_label_map_contains_are_counted_instead_of_drawn() -> None:
    found = of(organ(4, 0, truth_ml=0, predicted_ml=7), organ(6, 0.9, truth_ml=100, predicted_ml=110), organ(9, 0.9))
    pairs, alone = volume_pairs(found, D)
    assert pairs.tolist() == [[100, 110]]
    assert alone == 1
    assert volume_plot(of(organ(4, 0, truth_ml=0, predicted_ml=7))) is None


def test_limits_of_agreement_are_relative_to_the_mean_volume() -> None:
    mean, difference, limits = limits_of_agreement(np.array([[90.0, 110.0], [220.0, 180.0]]))
    assert mean.tolist() == [100, 200]
    assert difference.tolist() == [20, -20]
    spread = 1.96 * np.sqrt(800)  # sample standard deviation of 20 and -20
    assert limits == pytest.approx({"bias": 0.0, "lower": -spread, "upper": spread})
    assert limits_of_agreement(np.array([[90.0, 110.0]]))[2] == {"bias": 20.0}


def test_many_segmenters_get_several_rows_of_organs() -> None:
    assert len(dice_plot(results(("unet_3d", "D"), cases=2)).axes) == 1
    figure = dice_plot(results(("unet_3d", "A", "D"), cases=2))
    assert [len(axes.get_xticks()) for axes in figure.axes] == [5, 5, 5]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"unet_3d", "A", "D"}
