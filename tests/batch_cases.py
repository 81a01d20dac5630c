"""Small CTs, runs of batches and processes of a cluster, for the tests of batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medsam2_atlas.batch import Batch, Ended, Job, run_batch
from medsam2_atlas.batch.stand_in import SECONDS_VARIABLE, SOURCE
from medsam2_atlas.batch.tally import Tally

TWO: Mapping[str, str] = {"worker-0": "", "worker-1": ""}
LIBRARY = Path(__file__).resolve().parents[1] / "lib"


def write_cts(folder: Path, count: int, size: int = 16) -> Path:
    """Writes small CTs of different content; returns their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(count):
        array = np.full((size, size, size), -1000, np.int16)
        array[2:-2, 2:-2, 2:-2] = random.integers(-100, 100, (size - 4,) * 3)
        array[4:8, 4:8, 4 : 8 + number % 4] = 50
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((2.0, 2.0, 3.0))
        sitk.WriteImage(image, str(folder / f"case-{number:05}.nii.gz"))
    return folder


def stand_in_job(**changes: Any) -> Job:
    """Returns a job of the stand-in segmenter."""
    return Job(**({"segmenter": "atlas", "parts": Path(), "source": SOURCE, "hu": "as-is", "threads": 1} | changes))


def run_stand_in(source: Path | str, out: Path, watch: Callable[[Tally], None] = lambda _: None, **options: Any) -> Ended:
    """Runs a batch of the stand-in segmenter."""
    job = options.pop("job", None) or stand_in_job()
    return run_batch(Batch(str(source), out, job, **options), watch)


def entries(out: Path) -> list[dict[str, Any]]:
    """Returns the entries of cases in a manifest, all lines."""
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "case" in line]


def outputs(out: Path) -> dict[str, bytes]:
    """Returns the content of the label maps by name."""
    return {file.name: file.read_bytes() for file in (out / "labels").iterdir()}


def environment(seconds: float = 0.0) -> dict[str, str]:
    """Returns the environment of a process of a cluster; a case of the stand-in takes `seconds`."""
    return {**os.environ, "PYTHONPATH": str(LIBRARY), "OMP_NUM_THREADS": "1", SECONDS_VARIABLE: str(seconds)}


def free_port() -> int:
    """Returns a free port of the loopback interface."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Members:
    """Scheduler and workers of a cluster as separate processes on the loopback interface; killed ones are started again.

    Args:
        port: port of the scheduler.
        seconds: how long a case of the stand-in takes.
        tls: folder of certificates; None without.
        workers: resource of each worker by name, such as GPU; empty: none.
    """

    def __init__(self, port: int, seconds: float, tls: Path | None = None, workers: Mapping[str, str] = TWO) -> None:
        self._workers = dict(workers)
        self.address = f"{'tls' if tls else 'tcp'}://127.0.0.1:{port}"
        self._port, self._seconds, self._tls = port, seconds, tls
        self.processes: dict[str, subprocess.Popen] = {}
        self._closing = threading.Event()

    def __enter__(self) -> Members:
        for name in ("scheduler", *self._workers):
            self._start(name)
        threading.Thread(target=self._supervise, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        time.sleep(0.3)
        for process in self.processes.values():
            process.kill()
            process.wait()

    def command(self, name: str, tls: Path | None) -> list[str]:
        """Returns the command that starts a member."""
        if name == "scheduler":
            options = ["scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard", "--no-show"]
        else:
            options = ["worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--name", name]
            options += ["--no-dashboard", "--death-timeout", "20"]
            options += ["--resources", f"{self._workers[name]}=1"] if self._workers[name] else []
        if tls is not None:
            options += ["--protocol", "tls", "--tls-ca-file", str(tls / "ca.pem")]
            options += ["--tls-cert", str(tls / "cert.pem"), "--tls-key", str(tls / "key.pem")]
        return [sys.executable, "-m", "distributed.cli.dask_" + options[0], *options[1:]]

    def _start(self, name: str) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes[name] = subprocess.Popen(  # type: ignore[call-overload]
            self.command(name, self._tls), env=environment(self._seconds), **quiet
        )

    def kill(self, name: str) -> None:
        """Kills a member by SIGKILL; it is started again, as a service manager does."""
        self.processes[name].kill()

    def _supervise(self) -> None:
        while not self._closing.wait(0.2):
            for name, process in list(self.processes.items()):
                if process.poll() is not None and not self._closing.is_set():
                    self._start(name)
