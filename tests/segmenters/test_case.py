"""Stages of prompted strategies: their times, and the names that observers receive."""

from __future__ import annotations

import time

import numpy as np
import pytest

from fake_segmenters import FakeSegmenter
from medsam2_atlas.base.stages import observing, stage
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import Options, Report, Segmentation
from medsam2_atlas.segmenters.case import Case, Clock
from medsam2_atlas.segmenters.resources import LoadedResources
from stage_record import StageRecord


def test_a_clock_adds_up_the_times_of_a_stage_and_names_it() -> None:
    clock, record = Clock(), StageRecord()
    with observing(record), clock.timed("total"):
        for _ in range(2):
            with clock.stage("prompts"):
                time.sleep(0.01)
    assert clock.seconds["total"] >= clock.seconds["prompts"] >= 0.02
    assert record.changes == ["other > prompts", "prompts > other"] * 2


@pytest.mark.parametrize(("prompter", "name"), [("unet_3d", "U-Net"), ("bundle:own", "coarse masks")])
def test_the_network_that_gives_coarse_masks_is_not_counted_as_medsam2(prompter: str, name: str, tiny: Volume) -> None:
    def run(volume: Volume, options: Options) -> Segmentation:
        with stage("network"):
            return Segmentation(volume.with_array(np.zeros(volume.array.shape, np.uint8)), Report())

    case, clock, record = Case(tiny, LoadedResources()), Clock(), StageRecord()
    with observing(record):
        case._coarse_labels(FakeSegmenter(prompter, {}, run), clock)
    assert record.changes == [f"other > {name}", f"{name} > other"]
    assert list(clock.seconds) == [name]
