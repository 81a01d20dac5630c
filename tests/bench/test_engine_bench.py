"""The benchmark of the engine: its cases, its clock, and a run of both loops on a narrow network."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from engine import compared, counts_of, run
from engine_cases import Case, Size, drawn, narrow, seeded, staggered
from engine_clock import ATTENTION, DECODER, ENCODER, MEMORY, Clock, operations
from engine_results import Calls, Run

SIZE = Size(slices=9, organs=2, length=7)


@pytest.fixture(scope="module")
def case() -> Case:
    return drawn("tiny", staggered(SIZE), SIZE.slices, seeded(narrow()), side=64)


@pytest.fixture(scope="module")
def runs(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Returns two passes of both loops; exact mode is compared with the published loop."""
    folder = tmp_path_factory.mktemp("logits")
    return {loop: compared(run(case, loop, 1, 2, folder / f"{loop}-1.npz"), folder) for loop in ("published", "exact")}


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


def test_counted_calls_are_those_of_a_run(runs: dict[str, Run]) -> None:
    def by_memories(components: dict[str, tuple[Calls, ...]]) -> dict[str, dict[int, int]]:
        return {name: {part.memories: part.calls for part in parts} for name, parts in components.items()}

    counts = counts_of(SIZE)
    for loop, measured in runs.items():
        assert by_memories(counts[loop]) == by_memories(measured.components), loop


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
