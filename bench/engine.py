"""Measures MedSAM2's engine against the published loop: time, memory, and the share of each component (`make performance`).

Both modes of the engine and the published loop segment the same case in the same run, each in its own process. CPU seconds are
comparable on a busy machine; wall seconds only on an idle one. The cases:

- `small`: a part of a synthetic patient with the demo weights, in seconds
- `14`: 14 slices of 512 x 512 pixels, 3 organs, the official network with seeded weights
- `100` and `235`: 15 organs of 30 and 70 slices. The published loop would take up to hours: its calls are counted with a narrow
  network and multiplied by the costs of case `14`. `--measure` runs the engine on them.

Seeded weights give masks that fill most of a slice, so fast mode's windows follow the true masks instead. The small case has
the masks of its network.

`--json FILE` adds the results to a file, and `--page FILE` writes docs/performance.md from one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from engine_cases import NAMES, SIZES, Case, Size, drawn, make_case, narrow, seeded, staggered
from engine_clock import COMPONENTS, ENCODER, FIRST, Clock, operations, product_rates, watch
from engine_loops import LOOPS, Engine, Loop, Published
from engine_results import Calls, CaseResult, Results, Run, modelled

from medsam2_atlas.base.console import console
from medsam2_atlas.medsam2 import OFFICIAL, load_config
from medsam2_atlas.medsam2.linear import describe

GIB = 2**30
PASSES = 2


def measure(name: str, loop: Loop, threads: int, passes: int, logits: Path) -> Run:
    """Runs a loop on a case in this process, and stores the logits of its last pass in a file."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    return run(make_case(name), loop, threads, passes, logits)


def run(case: Case, loop: Loop, threads: int, passes: int, logits: Path) -> Run:
    """Runs a loop on a case, and stores the logits of its last pass in a file."""
    weights = case.weights()
    work: Published | Engine = Published(weights) if loop == "published" else Engine(weights, loop)
    clock, before = Clock(), product_rates()
    watch(clock, work)
    start_gib = psutil.Process().memory_info().rss / GIB
    began, used = time.perf_counter(), time.process_time()
    found = work(case, case.passes[:passes])
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    after = product_rates()
    np.savez(logits, **{str(label): values for label, values in found.items()})
    return Run(
        loop=loop,
        threads=threads,
        passes=passes,
        cpu=cpu,
        wall=wall,
        start_gib=start_gib,
        peak_gib=peak,
        rates={library: max(rate, after[library]) for library, rate in before.items()},
        arithmetic="" if loop == "published" else describe(),
        components=_counted(clock, measured=True),
    )


def _counted(clock: Clock, measured: bool, times: Mapping[str, int] | None = None) -> dict[str, tuple[Calls, ...]]:
    """Returns the calls by component, multiplied by `times`, with their CPU seconds if they are to be kept."""
    return {
        name: tuple(
            Calls(memories=m, calls=len(s) * (times or {}).get(name, 1), cpu=sum(s) if measured else 0.0)
            for m, s in sorted(clock.seconds[name].items())
        )
        for name in COMPONENTS
        if name in clock.seconds
    }


def compared(run: Run, folder: Path) -> Run:
    """Returns a run with its differences from the published loop's logits and from exact mode's masks, if those exist."""
    own, published, exact = (folder / f"{loop}-{run.threads}.npz" for loop in (run.loop, "published", "exact"))
    found: dict[str, tuple[float, float]] = {}
    if run.loop == "exact" and published.exists():
        with np.load(own) as ours, np.load(published) as theirs:
            differences = [np.abs(ours[label] - theirs[label]) for label in ours.files]
        found["error"] = (float(np.mean([d.mean() for d in differences])), float(max(d.max() for d in differences)))
    if run.loop == "fast" and exact.exists():
        with np.load(own) as ours, np.load(exact) as theirs:
            scores = [_dice(ours[label] > 0, theirs[label] > 0) for label in ours.files]
        found["dice"] = (float(np.mean(scores)), min(scores))
    return run.model_copy(update=found)


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def runs_of(name: str, loops: list[Loop], threads: list[int], passes: int) -> tuple[Run, ...]:
    """Runs loops on a case, each in a new process."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for count in threads:
            for loop in loops:
                console.print(f"[dim]case {name}, {loop}, {count} threads[/]")
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    logits = Path(folder) / f"{loop}-{count}.npz"
                    result = pool.apply(measure, (name, loop, count, passes, logits))
                real = name == "small" or loop != "fast"  # fast mode's masks of seeded weights are meaningless
                found.append(compared(result, Path(folder)) if real else result)
    return tuple(found)


def counts_of(size: Size) -> dict[str, dict[str, tuple[Calls, ...]]]:
    """Returns the calls of two passes of a full-size case, counted on one of its organs with a narrow network."""
    one = Size(size.length, 1, size.length)
    case = drawn("counts", staggered(one), one.slices, seeded(narrow()), side=64)
    counts = {}
    for loop in ("published", "exact"):
        weights, clock = case.weights(), Clock()
        work: Published | Engine = Published(weights) if loop == "published" else Engine(weights, "exact")
        watch(clock, work)
        work(case, case.passes[:1])
        found = _counted(clock, measured=False, times=dict.fromkeys(COMPONENTS, size.organs * PASSES))
        if loop == "exact":  # once per slice that has an organ, whatever the number of organs and passes
            once = len({z for n in range(size.organs) for z in _range(size, n)})
            found |= {name: (Calls(memories=0, calls=once),) for name in (ENCODER, FIRST)}
        counts[loop] = found
    return counts


def _range(size: Size, organ: int) -> range:
    first = round(organ * (size.slices - size.length) / max(1, size.organs - 1))
    return range(first, first + size.length)


def case_result(name: str, options: argparse.Namespace) -> CaseResult:
    """Measures or counts a case."""
    full = name in SIZES
    loops = [loop for loop in LOOPS if loop in options.mode and not (full and loop == "published")]
    measured = runs_of(name, loops, options.threads, options.passes) if options.measure or not full else ()
    counts = counts_of(SIZES[name]) if full else {}
    case = make_case(name)
    lengths = tuple(p.z_max - p.z_min + 1 for p in case.prompts)
    return CaseResult(
        slices=len(case.hu), organs=len(lengths), lengths=lengths, rows=case.hu.shape[1:], runs=measured, counts=counts
    )


def shown(name: str, case: CaseResult, units: CaseResult | None) -> Table:
    """Returns the table of a case; counted cases use the costs of a measured one."""
    table = Table("loop", "threads", "CPU s", "wall s", "peak GiB", "difference", title=f"case {name}")
    for run in case.runs:
        table.add_row(run.loop, str(run.threads), f"{run.cpu:.1f}", f"{run.wall:.1f}", f"{run.peak_gib:.2f}", difference(run))
    for loop, counts in case.counts.items():
        costs = units.run(loop) if units else None
        if costs:
            table.add_row(loop, "modelled", f"{sum(modelled(counts, costs.unit_costs()).values()):.0f}", "", "", "")
    return table


def difference(run: Run) -> str:
    """Returns a run's difference from its comparison; empty if it was not compared."""
    if run.error:
        return f"logits: mean {run.error[0]:.1e}, max {run.error[1]:.1e}"
    return f"Dice to exact: mean {run.dice[0]:.3f}, lowest {run.dice[1]:.3f}" if run.dice else ""


def processor() -> str:
    """Returns the name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    name = facts.get("model name", platform.processor() or platform.machine())
    return f"{name} (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=NAMES, nargs="*", default=["small"], help="the cases; small by default")
    parser.add_argument("--mode", choices=LOOPS, nargs="+", default=list(LOOPS), help="the loops; all by default")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="numbers of threads; 1 by default")
    parser.add_argument("--passes", type=int, default=PASSES, choices=(1, 2), help="passes of measured cases; 2 by default")
    parser.add_argument("--measure", action="store_true", help="run the engine on full-size cases")
    parser.add_argument("--json", type=Path, help="the file to which the results are added")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write docs/performance.md from the results in a file, and end"
    )
    options = parser.parse_args()
    if options.page:
        from engine_page import PAGE, content

        PAGE.write(content(Results.read(options.page)))
        return
    if options.json and options.json.exists():
        results = Results.read(options.json)
    else:
        flops = operations(seeded(load_config(OFFICIAL))().network)
        results = Results(processor=processor(), cores=multiprocessing.cpu_count(), torch=torch.__version__, operations=flops)
    for name in options.case:
        results = results.with_case(name, case_result(name, options))
        console.print(shown(name, results.cases[name], results.cases.get("14")))
        if options.json:
            results.write(options.json)


if __name__ == "__main__":
    main()
