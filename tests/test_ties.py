"""A deviation of logits is accepted behind a tie, and only there.

Both sides are runs of the official predictor; decisions of both are changed to make ties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig

from equality import Both, Case, boxes
from legacy import Change, Decision, Place
from ties import MAX_TIED_LOGIT, MAX_TIED_SCORE, Tie, assert_equal_except_behind_ties

SIZE = 128
DOWN = Case(boxes(0, 5, 5))
CORRECTED = Case(boxes(0, 5, 1, 3, 4), "published")
BOXED, TRACKED = (5, True), (3, False)


@pytest.fixture(scope="module")
def both(narrow_config: DictConfig, device: torch.device) -> Both:
    return Both(narrow_config, 6, device, official_features=True)


def nearest_to_zero(logits: torch.Tensor) -> torch.Tensor:
    """Returns the logit nearest to zero at the network's resolution."""
    fine = F.interpolate(logits[None, None], (SIZE, SIZE), mode="bilinear").flatten()
    return fine[fine.abs().argmin()]


def pixel(place: Place, value: float) -> dict[Place, Change]:
    """Shifts a slice's logits so that the one nearest to zero gets a value."""
    return {place: lambda decision: replace(decision, masks=decision.masks - nearest_to_zero(decision.logits) + value)}


def second_candidate(place: Place, lead: float) -> dict[Place, Change]:
    """Changes the predicted IoU of the second candidate so that it leads by a value."""

    def change(decision: Decision) -> Decision:
        scores = decision.scores.clone()
        best, second = scores.topk(2).indices
        scores[second] = scores[best] + lead
        return replace(decision, scores=scores)

    return {place: change}


def presence(place: Place, value: float) -> dict[Place, Change]:
    """Changes the logit of the organ's presence."""
    return {place: lambda decision: replace(decision, presence=value)}


def compared(
    both: Both,
    official: Mapping[Place, Change],
    ours: Mapping[Place, Change],
    case: Case = DOWN,
    fabricated: Mapping[int, float] | None = None,
) -> list[Tie]:
    """Compares two runs of the official predictor, each with its own changes, as if one of them were an engine's.

    Args:
        both: the predictor.
        official: the changes of the run that counts as official.
        ours: the changes of the run that counts as the engine's.
        case: the prompts.
        fabricated: numbers that are added to the engine's logits, by slice.
    """

    def repeat(more: Mapping[Place, Change]) -> Mapping[int, Decision]:
        def chained(first: Change, second: Change) -> Change:
            return lambda decision: second(first(decision))

        changes = {**more, **official}
        changes |= {place: chained(official[place], more[place]) for place in official.keys() & more.keys()}
        return both.official(case, changes).decisions

    found = {z: decision.logits for z, decision in both.official(case, ours).decisions.items()}
    for z, value in (fabricated or {}).items():
        found[z] = found[z] + value
    return assert_equal_except_behind_ties(repeat, found, case.ways, SIZE)


Tied = Callable[[float], dict[Place, Change]]
TIES: dict[str, tuple[Tied, float, Place]] = {
    "sign": (lambda value: pixel(BOXED, value), MAX_TIED_LOGIT / 2, BOXED),
    "choice": (lambda value: second_candidate(TRACKED, value), MAX_TIED_SCORE / 2, TRACKED),
    "presence": (lambda value: presence(TRACKED, value), MAX_TIED_LOGIT / 2, TRACKED),
}


def test_equal_logits_have_no_ties(both: Both) -> None:
    assert compared(both, {}, {}) == []


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", TIES)
def test_a_deviation_behind_a_tie_is_accepted(both: Both, kind: str, sign: int) -> None:
    change, value, place = TIES[kind]
    (tie,) = compared(both, change(sign * value), change(-sign * value))
    assert (tie.kind, tie.place) == (kind, place)


@pytest.mark.parametrize("kind", TIES)
def test_another_deviation_behind_a_tie_is_not_accepted(both: Both, kind: str) -> None:
    change, value, _ = TIES[kind]
    with pytest.raises(AssertionError, match=r"slice 1 differs by up to 0.[45]"):
        compared(both, change(value), change(-value), fabricated={1: 0.5})


def test_a_deviation_without_a_tie_is_not_accepted(both: Both) -> None:
    with pytest.raises(AssertionError, match=r"slice 2 differs by up to 0.2.*no decision before it is a tie"):
        compared(both, {}, {}, fabricated={2: 0.2})


def test_a_deviation_before_a_tie_is_not_accepted(both: Both) -> None:
    tied = [pixel((1, True), sign * MAX_TIED_LOGIT / 2) for sign in (1, -1)]
    assert CORRECTED.ways[1].index(2) < CORRECTED.ways[1].index(1)
    compared(both, *tied, CORRECTED)
    with pytest.raises(AssertionError, match=r"slice 2 differs.*no decision before it is a tie"):
        compared(both, *tied, CORRECTED, fabricated={2: 0.2})


def test_a_pixel_clearly_on_one_side_is_no_tie(both: Both) -> None:
    value = 4 * MAX_TIED_LOGIT
    with pytest.raises(AssertionError, match="pixels of slice 5 change sides"):
        compared(both, pixel(BOXED, value), pixel(BOXED, -value))


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ({}, second_candidate(TRACKED, 0.1)),
        ({}, presence(TRACKED, -1.0)),
        (presence(TRACKED, -2 * MAX_TIED_LOGIT), {}),
        (second_candidate(TRACKED, -2 * MAX_TIED_SCORE), second_candidate(TRACKED, 0.1)),
    ],
    ids=["a worse candidate", "an organ clearly present", "an organ absent", "a candidate slightly worse"],
)
def test_a_clear_decision_is_no_tie(both: Both, official: dict[Place, Change], ours: dict[Place, Change]) -> None:
    with pytest.raises(AssertionError, match=r"slice 3 differs.*no decision before it is a tie"):
        compared(both, official, ours)
