"""Writes the generated part of docs/performance.md from the results of `engine.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine_clock import COMPONENTS
from engine_results import CaseResult, Results, Run, modelled

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from generated_part import GeneratedPart

PAGE = GeneratedPart("performance.md", "performance")
RESULTS = Path(__file__).parent / "engine.json"
"""The results that the page shows."""
UNITS = "14"
"""The case whose costs per call the model of full-size cases uses."""
LOOPS = ("published", "exact", "fast")
_OTHER_RATES = (50, 100, 200, 400)
"""Rates of matrix products in GFLOP/s for which the page gives times."""


def content(results: Results) -> str:
    """Returns the generated part: measured cases, shares and rates of components, full-size cases, other machines."""
    return "\n\n".join(part for part in _parts(results) if part)


def _parts(results: Results) -> Iterator[str]:
    yield f"{results.processor}, {results.cores} cores, PyTorch {results.torch}."
    measured = {name: case for name, case in results.cases.items() if case.runs}
    yield "## Measured"
    for name, case in measured.items():
        yield f"**Case `{name}`**: {_described(case)}."
        yield _runs(case)
    units = results.cases.get(UNITS)
    if units is None or not units.runs:
        return
    yield f"## Components\n\nCPU seconds of case `{UNITS}` on one thread."
    yield _components(units)
    yield "Operations of a call, and the rate that the component reaches. The memory attention is given with four memories."
    yield _rates(results, units)
    full = {name: case for name, case in results.cases.items() if case.counts}
    if full:
        yield "## Full-size cases"
        yield _full_size(results, full, units)
        yield "## Other machines"
        yield _machines(results, full, units)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _described(case: CaseResult) -> str:
    low, high = min(case.lengths), max(case.lengths)
    each = f"{low}" if low == high else f"{low} to {high}"
    return f"{case.slices} slices of {case.rows[1]} × {case.rows[0]} pixels, {case.organs} organs of {each} slices"


def _runs(case: CaseResult) -> str:
    rows = []
    for run in case.runs:
        base = case.run("published", run.threads)
        ratios = ["", ""]
        if base and base is not run and base.passes == run.passes:
            ratios = [f"{base.cpu / run.cpu:.1f}", f"{base.wall / run.wall:.1f}"]
        rows.append(
            [
                *(run.loop, str(run.threads), str(run.passes), f"{run.cpu:.1f}", ratios[0], f"{run.wall:.1f}", ratios[1]),
                *(f"{run.start_gib:.2f}", f"{run.peak_gib:.2f}", _difference(run)),
            ]
        )
    head = (
        "loop",
        "threads",
        "passes",
        "CPU s",
        "times faster",
        "wall s",
        "times faster",
        "GiB before",
        "peak GiB",
        "difference",
    )
    return _table(head, rows)


def _difference(run: Run) -> str:
    if run.error:
        return f"logits differ by {_power(run.error[0])} on average, by {_power(run.error[1])} at most"
    return f"Dice to exact {_three(run.dice[0])}, lowest organ {_three(run.dice[1])}" if run.dice else ""


def _power(value: float) -> str:
    return f"{value:.0e}".replace("e-0", " · 10^-").replace("e-", " · 10^-") + ("^" if value < 1 else "")


def _three(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _components(case: CaseResult) -> str:
    runs = [run for loop in LOOPS if (run := case.run(loop))]
    names = [*COMPONENTS, "everything else"]
    rows = []
    for name in names:
        cells = []
        for run in runs:
            seconds = run.seconds.get(name)
            calls = sum(part.calls for part in run.components.get(name, ()))
            cells += ["", "", ""] if seconds is None else [str(calls or ""), f"{seconds:.2f}", f"{seconds / run.cpu:.0%}"]
        rows.append([name, *cells])
    head = [text for run in runs for text in (f"{run.loop}: calls", "CPU s", "share")]
    return _table(["component", *head], rows)


def _rates(results: Results, case: CaseResult) -> str:
    runs = [run for loop in ("published", "exact") if (run := case.run(loop))]
    rows = []
    for name in COMPONENTS:
        cells = []
        for run in runs:
            cost, work = run.unit_costs().get(name), results.operations[run.loop].get(name)
            if cost is None or work is None:
                cells += ["", "", ""]
                continue
            seconds, gigaflop = cost[0] + 4 * cost[1], work[0] + 4 * work[1]
            cells += [f"{gigaflop:.2f}", f"{1000 * seconds:.0f}", f"{gigaflop / seconds:.0f}"]
        rows.append([name, *cells])
    for library in ("MKL", "oneDNN"):
        rows.append([f"matrix products, {library}", *(c for run in runs for c in ("", "", _rate(run, library)))])
    head = [text for run in runs for text in (f"{run.loop}: GFLOP", "ms", "GFLOP/s")]
    return _table(["component", *head], rows)


def _rate(run: Run, library: str) -> str:
    return f"{run.rates[library]:.0f}" if library in run.rates else ""


def _full_size(results: Results, full: dict[str, CaseResult], units: CaseResult) -> str:
    rows = []
    for case in full.values():
        modelled_seconds = {
            loop: sum(modelled(counts, run.unit_costs()).values())
            for loop, counts in case.counts.items()
            if (run := units.run(loop))
        }
        for loop, seconds in modelled_seconds.items():
            counts = case.counts[loop]
            work = _operations(results, loop, counts)
            run = case.run(loop)
            faster = modelled_seconds["published"] / seconds if "published" in modelled_seconds else 0.0
            rows.append(
                [
                    *(_described(case), loop, _calls(counts, "image encoder"), _calls(counts, "memory attention")),
                    *(f"{work / 1000:.1f}" if work else "", f"{seconds:.0f}"),
                    *("" if loop == "published" else f"{faster:.1f}", f"{run.cpu:.0f}" if run and run.passes == 2 else ""),
                ]
            )
    head = ("case", "loop", "slices encoded", "slices tracked", "TFLOP", "CPU s, modelled", "times faster", "CPU s, measured")
    return _table(head, rows)


def _calls(counts: dict, component: str) -> str:
    return str(sum(part.calls for part in counts.get(component, ())))


def _operations(results: Results, loop: str, counts: dict) -> float:
    """Returns GFLOP; 0 for fast mode, whose operations depend on the organs' sizes."""
    return sum(modelled(counts, results.operations[loop]).values()) if loop in results.operations else 0.0


def reached(results: Results, run: Run) -> float:
    """Returns the share of the faster library's rate of matrix products that a loop reaches, with everything that it does."""
    return _operations(results, run.loop, run.components) / run.cpu / max(run.rates.values())


def _machines(results: Results, full: dict[str, CaseResult], units: CaseResult) -> str:
    rows = []
    for case in full.values():
        for loop in ("published", "exact"):
            run, counts = units.run(loop), case.counts.get(loop)
            if run and counts:
                share, work = reached(results, run), _operations(results, loop, counts)
                seconds = (work / (rate * share) for rate in _OTHER_RATES)
                rows.append([_described(case), loop, f"{share:.0%}", *(f"{s:.0f}" for s in seconds)])
    head = ("case", "loop", "share of the rate", *(f"CPU s at {rate} GFLOP/s" for rate in _OTHER_RATES))
    return _table(head, rows)
