"""The benchmark of the engine: its cases, its clock, and a run of both loops on a narrow network."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from engine import compared, counts_of, run
from engine_cases import Case, Size, drawn, narrow, seeded, staggered
from engine_clock import ATTENTION, DECODER, ENCODER, MEMORY, Clock, operations, watch
from engine_loops import LOOPS, Engine
from engine_results import Calls, Run

SIZE = Size(slices=9, organs=2, length=7)


@pytest.fixture(scope="module")
def case() -> Case:
    return drawn("tiny", staggered(SIZE), SIZE.slices, seeded(narrow()), side=64)


@pytest.fixture(scope="module")
def runs(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Returns two passes of each loop; exact mode is compared with the published loop."""
    folder = tmp_path_factory.mktemp("logits")
    return {loop: compared(run(case, loop, 1, 2, folder / f"{loop}-1.npz"), folder) for loop in LOOPS}


def calls(run: Run) -> dict[str, int]:
    return {name: sum(part.calls for part in parts) for name, parts in run.components.items()}


def test_both_loops_give_the_same_logits(runs: dict[str, Run]) -> None:
    error = runs["exact"].error
    assert error is not None
    assert error[0] < 1e-3


def test_the_engine_encodes_each_slice_once_and_computes_no_memory_that_no_slice_reads(runs: dict[str, Run]) -> None:
    published, exact = calls(runs["published"]), calls(runs["exact"])
    assert exact[ENCODER] == SIZE.slices
    assert published[ENCODER] > 4 * SIZE.slices
    # The published loop tracks some slices below the middle twice.
    assert published[ATTENTION] > exact[ATTENTION]
    assert published[MEMORY] == published[DECODER]
    assert exact[MEMORY] < exact[DECODER]


def test_fast_mode_segments_again_only_organs_whose_boxes_have_moved(case: Case) -> None:
    first = case.prompts[0]
    passes = [case.prompts, (first, case.passes[1][1])]  # a box of a few pixels has moved if it grows by one
    decoded = {}
    for loop in ("exact", "fast", "fast-again"):
        work, clock = Engine(case.weights(), loop), Clock()
        watch(clock, work)
        work(case, passes)
        decoded[loop] = len(clock.seconds[DECODER][0])
    assert decoded["fast-again"] == decoded["exact"]
    assert decoded["fast"] / decoded["exact"] == 3 / 4  # three of four times an organ


def test_fast_mode_follows_the_true_masks_where_weights_are_seeded(case: Case) -> None:
    prompt = case.prompts[0]
    true = np.stack([case.section(prompt.label, z) for z in range(prompt.z_min, prompt.z_max + 1)])
    found = {loop: Engine(case.weights(), loop)(case, case.passes[:1])[prompt.label] > 0 for loop in ("exact", "fast")}
    dice = {loop: 2 * (mask & true).sum() / (mask.sum() + true.sum()) for loop, mask in found.items()}
    assert dice["fast"] > 0.75  # the masks have 16 x 16 pixels
    assert dice["exact"] < 0.5


def test_component_times_are_a_part_of_the_whole_time(runs: dict[str, Run]) -> None:
    for measured in runs.values():
        total = sum(part.cpu for parts in measured.components.values() for part in parts)
        assert 0 < total <= measured.cpu


def test_counted_calls_are_those_of_a_run(runs: dict[str, Run]) -> None:
    def by_memories(components: dict[str, tuple[Calls, ...]]) -> dict[str, dict[int, int]]:
        return {name: {part.memories: part.calls for part in parts} for name, parts in components.items()}

    counts = counts_of(SIZE)
    for loop in ("published", "exact"):
        assert by_memories(counts[loop]) == by_memories(runs[loop].components), loop


def test_the_time_of_a_component_excludes_components_inside_it() -> None:
    class Nested:
        def inner(self) -> None:
            end = time.process_time() + 0.02
            while time.process_time() < end:
                pass

        def outer(self) -> None:
            self.inner()

    clock, nested = Clock(), Nested()
    clock.watch(nested, "inner", "inner")
    clock.watch(nested, "outer", "outer")
    nested.outer()
    assert clock.seconds["inner"][0][0] >= 0.02
    assert clock.seconds["outer"][0][0] < 0.01


def test_the_engine_needs_fewer_operations_than_the_published_loop() -> None:
    found = operations(seeded(narrow())().network)
    assert found["exact"][ATTENTION][1] < found["published"][ATTENTION][1]
    assert found["exact"][ENCODER][0] < found["published"][ENCODER][0]  # two pairs of convolutions are one each
