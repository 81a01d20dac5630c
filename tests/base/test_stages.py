"""Stages of a run, and observers that are notified of them."""

from __future__ import annotations

import threading

import pytest

from medsam2_atlas.base.stages import Observer, observing, stage
from stage_record import StageRecord


class Broken(Observer):
    """An observer whose counter fails."""

    def switch(self, before: str) -> None:
        raise RuntimeError("no counter")


def test_a_nested_stage_pauses_the_outer_one() -> None:
    record = StageRecord()
    with observing(record), stage("outer"), stage("inner"):
        pass
    assert record.changes == ["other > outer", "outer > inner", "inner > outer", "outer > other"]


def test_a_stage_within_a_stage_of_the_same_name_changes_nothing() -> None:
    record = StageRecord()
    with observing(record), stage("network"), stage("network"):
        pass
    assert record.changes == ["other > network", "network > other"]


def test_the_stages_in_a_whole_stage_are_parts_of_it() -> None:
    record = StageRecord()
    with observing(record):
        with stage("U-Net", whole=True), stage("network"):
            pass
        with stage("network"):
            pass
    assert record.changes == ["other > U-Net", "U-Net > other", "other > network", "network > other"]


def test_an_error_ends_its_stages() -> None:
    record = StageRecord()
    with observing(record):
        with pytest.raises(ZeroDivisionError), stage("outer"), stage("inner"):
            _ = 1 / 0
        assert record.running == "other"


def test_an_observer_within_a_stage_begins_outside_of_all_stages() -> None:
    outer, inner = StageRecord(), StageRecord()
    with observing(outer), stage("case"), observing(inner), stage("network"):
        pass
    assert inner.changes == ["other > network", "network > other"]
    assert outer.changes == ["other > case", "case > network", "network > case", "case > other"]


def test_nobody_is_notified_after_the_block_or_from_another_thread() -> None:
    record = StageRecord()

    def work() -> None:
        with stage("network"):
            pass

    with observing(record):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    work()
    assert record.changes == []


def test_an_observer_that_fails_affects_neither_the_work_nor_other_observers() -> None:
    record = StageRecord()
    with observing(Broken()), observing(record), stage("network"):
        done = "the result"
    assert done
    assert record.changes == ["other > network", "network > other"]
