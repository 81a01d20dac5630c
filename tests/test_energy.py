"""Energy of a block of work."""

from __future__ import annotations

import time

import numpy as np

from medsam2_atlas.energy import measured


def work(seconds: float) -> None:
    matrix, began = np.ones((400, 400)), time.perf_counter()
    while time.perf_counter() - began < seconds:
        matrix @ matrix


def test_work_takes_energy_and_time() -> None:
    with measured() as first:
        work(3)
    assert first["seconds"] >= 3
    assert first["watt_hours"] > 0
    assert "CodeCarbon" in first["how"]


def test_of_two_blocks_at_once_only_one_is_measured_and_the_other_says_so() -> None:
    with measured() as outer, measured() as inner:
        work(0.2)
    assert inner["watt_hours"] is None
    assert "beside" in inner["how"]
    assert outer["watt_hours"] is not None
