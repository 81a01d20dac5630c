"""The page docs/performance.md, and the model behind its full-size cases."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from engine_page import PAGE, RESULTS, content
from engine_results import Calls, CaseResult, Results, Run, modelled

ENCODER, ATTENTION = "image encoder", "memory attention"
COSTS = {"published": {ENCODER: (60.0, 0.0), ATTENTION: (12.0, 4.0)}, "exact": {ENCODER: (60.0, 0.0), ATTENTION: (8.0, 2.0)}}
"""GFLOP of each call, and of each memory of it."""


def attended(*seconds: float) -> tuple[Calls, ...]:
    """Returns two calls of the memory attention for each number of memories from 1 on."""
    return tuple(Calls(memories=n, calls=2, cpu=2 * s) for n, s in enumerate(seconds, 1))


def run(loop: str, cpu: float, encoded: int, *seconds: float) -> Run:
    return Run(
        loop=loop,
        threads=1,
        passes=2,
        cpu=cpu,
        wall=cpu,
        start_gib=0.8,
        peak_gib=1.1,
        rates={"MKL": 80.0, "oneDNN": 100.0},
        arithmetic="",
        components={ENCODER: (Calls(memories=0, calls=encoded, cpu=float(encoded)),), ATTENTION: attended(*seconds)},
    )


@pytest.fixture
def results() -> Results:
    """Returns a measured case and a counted one: 10 slices encoded instead of 40, attention from .4 s to .2 s."""
    slow, quick = run("published", 50.0, 40, 0.3, 0.4, 0.5), run("exact", 12.5, 10, 0.15, 0.2, 0.25)
    counts = {ENCODER: (Calls(memories=0, calls=100),), ATTENTION: (Calls(memories=4, calls=10),)}
    units = CaseResult(slices=14, organs=3, lengths=(9, 11, 11), rows=(512, 512), runs=(slow, quick))
    full = CaseResult(slices=100, organs=15, lengths=(30,), rows=(512, 512), counts={"published": counts, "exact": counts})
    return Results(processor="P", cores=2, torch="2", operations=COSTS, cases={"14": units, "100": full})


def row(text: str, *begin: str) -> list[str]:
    """Returns the cells of the first row that begins with these cells."""
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|"))
    return next(cells for cells in rows if cells[: len(begin)] == list(begin))


def test_the_costs_of_calls_are_a_line_over_the_number_of_memories(results: Results) -> None:
    costs = results.cases["14"].runs[0].unit_costs()
    assert costs[ENCODER] == pytest.approx((1.0, 0.0))
    assert costs[ATTENTION] == pytest.approx((0.2, 0.1))


def test_a_modelled_time_is_counts_times_costs() -> None:
    counts = {ENCODER: (Calls(memories=0, calls=3),), ATTENTION: (Calls(memories=2, calls=5), Calls(memories=4, calls=1))}
    found = modelled(counts, {ENCODER: (2.0, 0.0), ATTENTION: (1.0, 0.5)})
    assert found == pytest.approx({ENCODER: 6.0, ATTENTION: 5 * 2 + 3})


def test_the_page_has_the_ratio_of_processor_times(results: Results) -> None:
    assert row(content(results), "exact", "1", "2", "12.5")[4] == "4.0"


def test_the_page_says_which_loop_was_not_measured(results: Results) -> None:
    assert row(content(results), "fast")[-1] == "not measured"


def test_the_page_has_the_modelled_times_of_counted_cases(results: Results) -> None:
    case = "100 slices of 512 × 512 pixels, 15 organs of 30 slices"
    # 100 slices of 1 s, and 10 calls with four memories: .6 s in the published loop, .3 s in the engine
    assert row(content(results), case, "published")[5] == "106"
    assert row(content(results), case, "exact")[5:7] == ["103", "1.0"]


def test_times_of_other_machines_follow_from_operations_and_rate(results: Results) -> None:
    text = content(results)
    # exact: 10 × 60 + 2 × (10 + 12 + 14) = 672 GFLOP in 12.5 s, of 100 GFLOP/s; then 100 × 60 + 10 × 16 GFLOP
    cells = row(text[text.index("## Other machines") :], "100 slices of 512 × 512 pixels, 15 organs of 30 slices", "exact")
    assert cells[2] == "54%"
    assert cells[4] == f"{6160 / (100 * 0.5376):.0f}"


def test_a_new_measurement_replaces_only_the_run_with_the_same_threads(results: Results) -> None:
    again = run("exact", 11.0, 10, 0.1, 0.1, 0.1)
    two = again.model_copy(update={"threads": 2})
    case = results.cases["14"].model_copy(update={"runs": (again, two)})
    runs = results.with_case("14", case).cases["14"].runs
    assert [(r.loop, r.threads, r.cpu) for r in runs] == [("published", 1, 50.0), ("exact", 1, 11.0), ("exact", 2, 11.0)]


def test_results_survive_their_file(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results


def test_the_page_shows_the_stored_results() -> None:
    assert PAGE.file.read_text(encoding="utf-8") == PAGE.replaced(content(Results.read(RESULTS)))
