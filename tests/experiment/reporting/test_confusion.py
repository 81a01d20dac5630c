"""Confusion between organs."""

from __future__ import annotations

import numpy as np

from made_results import organ, record
from medsam2_atlas.experiment import Results, Variant
from medsam2_atlas.experiment.reporting.confusion import confusion_plot, confusion_shares

D = Variant(segmenter="D")


def of(*confusions: tuple[tuple[int, int, int], ...]) -> Results:
    """Returns results of organs 10, 13 and 14 with one case per confusion."""
    records = [record(f"case_{n}", D, [organ(10, 0.5)]).model_copy(update={"confusion": c}) for n, c in enumerate(confusions)]
    return Results(tuple(records), (10, 13, 14))


def test_a_row_contains_the_shares_of_the_true_organ_and_ends_with_the_background() -> None:
    shares = confusion_shares(of(((10, 10, 60), (10, 13, 30), (10, 0, 10), (13, 13, 5), (0, 10, 999))), D)
    np.testing.assert_allclose(shares[0], [0.6, 0.3, 0, 0.1])
    np.testing.assert_allclose(shares[1], [0, 1, 0, 0])
    assert np.isnan(shares[2]).all()  # no case contains organ 14


def test_each_case_counts_the_same_whatever_its_number_of_voxels() -> None:
    shares = confusion_shares(of(((10, 10, 1),), ((10, 13, 1000),), ((13, 13, 7),)), D)
    np.testing.assert_allclose(shares[0], [0.5, 0.5, 0, 0])


def test_an_organ_that_is_not_listed_counts_as_background() -> None:
    np.testing.assert_allclose(confusion_shares(of(((10, 10, 3), (10, 7, 1))), D)[0], [0.75, 0, 0, 0.25])


def test_an_organ_that_was_not_scored_does_not_count() -> None:
    found = of(((10, 0, 5),))
    (one,) = found.records
    unscored = Results((one.model_copy(update={"counted": (13,)}),), found.organs)
    assert np.isnan(confusion_shares(unscored, D)).all()


def test_the_heat_map_shows_correct_shares_and_errors_of_at_least_half_a_percent() -> None:
    figure = confusion_plot(of(((10, 10, 900), (10, 13, 97), (10, 14, 3))), D)
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert numbers == ["90", "10"]
    assert "background" in [label.get_text() for label in figure.axes[0].get_xticklabels()]
