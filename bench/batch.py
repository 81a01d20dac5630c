"""Measures batches: losses of a cluster, 10,000 cases, and throughput against the cost model (`make batch-bench`).

The segmenter is a stand-in (`batch.stand_in`): it measures the machinery. With `--case-seconds`, a case also waits that long,
as a CPU waits for a GPU. `--real ATLAS CTS` measures the segmenter `atlas` instead, with one thread in each process.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "lib")]

from batch_cases import Members, entries, outputs, run_stand_in, write_cts  # noqa: E402
from medsam2_atlas.batch import Job  # noqa: E402
from medsam2_atlas.batch.stand_in import SECONDS_VARIABLE  # noqa: E402
from medsam2_atlas.batch.tally import Tally  # noqa: E402

PROGRAM = """
import sys, time
sys.path[:0] = [{tests!r}, {lib!r}]
from pathlib import Path
from batch_cases import run_stand_in
last = [0.0]
def watch(tally):
    if time.time() - last[0] > 0.2 or tally.left == 0:
        print(tally.done, tally.kept, flush=True)
        last[0] = time.time()
run_stand_in(Path(sys.argv[1]), Path(sys.argv[2]), watch, cluster=sys.argv[3])
"""


def free_port() -> int:
    """Returns a free port of the loopback interface."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def losses(folder: Path, count: int = 40) -> dict[str, Any]:
    """Kills a worker twice and the scheduler once; compares with a serial run."""
    cts = write_cts(folder / "cts", count)
    run_stand_in(cts, folder / "serial", serial=True)
    plan = {count // 6: "worker-0", count // 3: "scheduler", count * 3 // 5: "worker-0"}
    kills = list(plan.values())

    def watch(tally: Tally) -> None:
        for done in [done for done in plan if tally.done >= done]:
            members.kill(plan.pop(done))

    began = time.perf_counter()
    with Members(free_port(), seconds=0.2, quick=False) as members:
        tally = run_stand_in(cts, folder / "out", watch, cluster=members.address).tally
    counts = Counter(entry["case"] for entry in entries(folder / "out"))
    return {
        "cases": count,
        "killed": kills,
        "done": tally.done,
        "failed": len(tally.failed),
        "lines per case": sorted({*counts.values()}),
        "outputs equal to a serial run": outputs(folder / "out") == outputs(folder / "serial"),
        "seconds": round(time.perf_counter() - began, 1),
    }


class Memory:
    """Samples the resident memory of processes, in MB."""

    def __init__(self, processes: dict[str, int]) -> None:
        self.samples: dict[str, list[float]] = {name: [] for name in processes}
        self._processes = {name: psutil.Process(number) for name, number in processes.items()}
        self._end = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while not self._end.wait(1.0):
            for name, process in self._processes.items():
                try:
                    self.samples[name].append(process.memory_info().rss / 1e6)
                except psutil.Error:
                    return

    def close(self) -> dict[str, dict[str, float]]:
        """Returns the memory at a tenth, at half and at the end of the run."""
        self._end.set()
        at = {"at 10 %": 0.1, "at 50 %": 0.5, "at the end": 0.999}
        return {
            name: {text: round(found[int(len(found) * share)]) for text, share in at.items()}
            for name, found in self.samples.items()
            if found
        }


def many(folder: Path, count: int, cluster: bool) -> dict[str, Any]:
    """Runs many cases of milliseconds; kills the client in the middle, and measures the time until the next case is done."""
    made = write_cts(folder / "made", 50, size=12)
    cts = folder / "cts"
    cts.mkdir()
    sources = sorted(made.iterdir())
    for number in range(count):
        os.link(sources[number % len(sources)], cts / f"case-{number:05}.nii.gz")
    program = PROGRAM.format(tests=str(ROOT / "tests"), lib=str(ROOT / "lib"))
    found: dict[str, Any] = {"cases": count, "cluster": cluster}
    members = Members(free_port(), seconds=0.0, quick=False) if cluster else None
    address = members.__enter__().address if members else ""
    command = [sys.executable, "-c", program, str(cts), str(folder / "out"), address]
    try:
        for part in ("until killed", "resumed"):
            began = time.perf_counter()
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL) as client:
                processes = {"client": client.pid}
                if members:
                    processes |= {"scheduler": members.processes["scheduler"].pid}
                memory = Memory(processes)
                assert client.stdout is not None
                first, done, kept = 0.0, 0, 0
                for line in client.stdout:
                    done, kept = map(int, line.split())
                    if done and not first:
                        first = time.perf_counter()
                        base = done
                    if part == "until killed" and done >= count // 2:
                        break
                end = time.perf_counter()
                about = {"s to the first case": round(first - began, 1), "kept": kept, "memory, MB": memory.close()}
                found[part] = about | {"cases an hour": round(3600 * (done - base) / (end - first))}
                if part == "until killed":
                    client.kill()
    finally:
        if members:
            members.__exit__()
    counts = Counter(entry["case"] for entry in entries(folder / "out"))
    found |= {"lines per case": sorted({*counts.values()}), "cases in the manifest": len(counts)}
    return found


def throughput(folder: Path, count: int, seconds: float, job: Job | None = None, cts: Path | None = None) -> dict[str, Any]:
    """Measures serial and pipelined runs, and clusters of one and two workers; the model's prediction stands beside each."""
    cts = cts or write_cts(folder / "cts", count, size=64)
    os.environ[SECONDS_VARIABLE] = str(seconds)
    found: dict[str, Any] = {"cases": count, "s a case waits": seconds}
    options: dict[str, dict[str, Any]] = {
        "serial": {"serial": True},
        "pipelined": {},
        "1 worker": {"cluster": "local", "workers": 1},
        "2 workers": {"cluster": "local", "workers": 2},
    }
    steps: dict[str, float] = {}
    for name, chosen in options.items():
        out, ends = folder / name.replace(" ", "-"), list[tuple[float, int]]()

        def watch(tally: Tally, ends: list[tuple[float, int]] = ends) -> None:
            if tally.done and (not ends or ends[-1][1] != tally.done):
                ends.append((time.perf_counter(), tally.done))

        run_stand_in(cts, out, watch, job=job, **chosen)
        (first, base), (last, done) = ends[0], ends[-1]
        if name == "serial":
            rows = [entry["seconds"] for entry in entries(out)][1:]
            steps = {step: sum(row[step] for row in rows) / len(rows) for step in rows[0]}
            found["s of each step, serial"] = {step: round(value, 3) for step, value in steps.items()}
        each = max(steps.values()) if name == "pipelined" else sum(steps.values())
        workers = int(name[0]) if name[0].isdigit() else 1
        found[name] = {
            "cases an hour": round(3600 * (done - base) / (last - first)),
            "model": round(3600 * workers / each),
        }
    return found


def main() -> None:
    """Runs the measurements that are asked for, and prints them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["losses", "many", "throughput"])
    parser.add_argument("--cases", type=int, default=0)
    parser.add_argument("--case-seconds", type=float, default=0.5)
    parser.add_argument("--cluster", action="store_true", help="many: on a cluster of two workers")
    parser.add_argument("--real", nargs=2, metavar=("ATLAS", "CTS"), help="throughput: the segmenter `atlas`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.what == "losses":
            found = losses(folder, options.cases or 40)
        elif options.what == "many":
            found = many(folder, options.cases or 10_000, options.cluster)
        elif options.real:
            atlas, cts = options.real
            job = Job("atlas", Path(), {"atlas": atlas, "device": "cpu"}, threads=1)
            found = throughput(folder, len(list(Path(cts).iterdir())), 0.0, job, Path(cts))
        else:
            found = throughput(folder, options.cases or 30, options.case_seconds)
    print(json.dumps({"what": options.what, "cores": os.cpu_count(), **found}, indent=2))


if __name__ == "__main__":
    main()
