"""Fast mode repeats only organs whose prompts changed; exact mode repeats all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from medsam2_atlas.prompting import BoxPrompt, OrganPrompt, Prompts
from medsam2_atlas.segmenters import strategies
from medsam2_atlas.segmenters.case import Clock

BOX = BoxPrompt(2, (2, 2, 11, 11))
BEFORE = Prompts((OrganPrompt(1, 0, 4, (BOX,)), OrganPrompt(2, 0, 4, (BOX,))))
AFTER = Prompts((BEFORE.prompts[0], replace(BEFORE.prompts[1], boxes=(BoxPrompt(2, (9, 9, 18, 18)),))))


class FakeCase:
    """Records the organs that the network segments."""

    def __init__(self) -> None:
        self.segmented: list[OrganPrompt] = []
        self.fused_from: dict[int, Any] = {}
        self.image = type("Image", (), {"array": np.zeros((6, 30, 30))})()

    def from_labels(self, *_: Any) -> Prompts:
        return AFTER

    def logits(self, prompts: Sequence[OrganPrompt], _: Clock) -> dict[int, Any]:
        self.segmented = list(prompts)
        return {p.label: "second" for p in prompts}

    def fused(self, logits: dict[int, Any], _: Clock) -> np.ndarray:
        self.fused_from = logits
        return np.zeros((6, 30, 30), np.uint8)


@pytest.mark.parametrize("enlarge", [False, True])
def test_organs_that_did_not_move_keep_the_first_result_and_its_prompt(enlarge: bool) -> None:
    case: Any = FakeCase()
    first: Any = strategies.Outcome(np.zeros((6, 30, 30), np.uint8), (BEFORE,), {1: "first", 2: "first"})
    outcome = strategies._second_pass(case, first, Clock(), enlarge=enlarge)
    assert [p.label for p in case.segmented] == [2]
    assert case.fused_from == {1: "first", 2: "second"}
    assert outcome.passes[-1].prompts[0] == BEFORE.prompts[0], "the report names the prompt that was used"


def test_without_kept_logits_all_organs_are_repeated() -> None:
    case: Any = FakeCase()
    strategies._second_pass(case, strategies.Outcome(np.zeros((6, 30, 30), np.uint8), (BEFORE,)), Clock(), enlarge=False)
    assert [p.label for p in case.segmented] == [1, 2]
