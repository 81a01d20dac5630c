"""Organs whose prompts are about the same in two passes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medsam2_atlas.prompting import BoxPrompt, OrganPrompt, Prompts, unmoved
from medsam2_atlas.prompting.overlap import overlap

ORGAN = OrganPrompt(1, 10, 19, (BoxPrompt(12, (10, 10, 19, 19)), BoxPrompt(15, (10, 10, 19, 19))))


def test_equal_prompts_overlap_fully() -> None:
    assert overlap(ORGAN, ORGAN) == 1


def test_the_overlap_is_that_of_the_box_that_moved_most() -> None:
    moved = replace(ORGAN, boxes=(ORGAN.boxes[0], BoxPrompt(15, (15, 10, 24, 19))))
    assert overlap(ORGAN, moved) == pytest.approx(50 / 150)


def test_the_range_along_z_counts_too() -> None:
    assert overlap(ORGAN, replace(ORGAN, z_min=5, z_max=19)) == pytest.approx(10 / 15)


def test_separate_boxes_do_not_overlap() -> None:
    assert overlap(ORGAN, replace(ORGAN, boxes=(ORGAN.boxes[0], BoxPrompt(15, (50, 50, 60, 60))))) == 0


def test_another_number_of_boxes_means_that_the_organ_moved() -> None:
    assert overlap(ORGAN, replace(ORGAN, boxes=ORGAN.boxes[:1])) == 0


def test_only_organs_of_both_passes_with_enough_overlap_are_unmoved() -> None:
    shifted = replace(ORGAN, label=2, boxes=tuple(BoxPrompt(b.z, (13, 10, 22, 19)) for b in ORGAN.boxes))
    before = Prompts((ORGAN, replace(ORGAN, label=2)))
    after = Prompts((ORGAN, shifted, replace(ORGAN, label=3)))
    assert unmoved(before, after, 0.8) == {1}
    assert unmoved(before, after, 0.5) == {1, 2}
