"""Small CTs, runs of batches and processes of a cluster, for the tests of batches."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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


_FORKS = """
import json, os, runpy, signal, sys
import distributed.cli.dask_scheduler, distributed.cli.dask_worker
import medsam2_atlas.batch.engine, medsam2_atlas.batch.shipping, medsam2_atlas.batch.stand_in
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    module, arguments, environment = json.loads(line)
    number = os.fork()
    if number == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        os.environ.update(environment)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        os._exit(0)
    print(number, flush=True)
"""


class Process:
    """A process of a cluster. It is the child of a process that has imported everything, so that it starts at once."""

    _parent: subprocess.Popen[str] | None = None
    _lock = threading.Lock()

    def __init__(self, module: str, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        with self._lock:
            if Process._parent is None or Process._parent.poll() is not None:
                Process._parent = subprocess.Popen(
                    [sys.executable, "-c", _FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True
                )
                atexit.register(Process._parent.kill)
            parent = Process._parent
            assert parent.stdin is not None and parent.stdout is not None
            parent.stdin.write(json.dumps([module, [*arguments], dict(variables)]) + "\n")
            parent.stdin.flush()
            self.pid = int(parent.stdout.readline())

    @property
    def runs(self) -> bool:
        """Whether it runs. Its parent reaps it when it has ended."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """Kills it by SIGKILL."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class ProcessFromScratch:
    """A process of a cluster as an operator starts it, for measurements."""

    def __init__(self, module: str, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([sys.executable, "-m", module, *arguments], env=environment() | variables, **quiet)
        self.pid = self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kills it by SIGKILL."""
        self._process.kill()
        self._process.wait()


class Members:
    """Scheduler and workers of a cluster as separate processes on the loopback interface; killed ones are started again.

    Args:
        port: port of the scheduler.
        seconds: how long a case of the stand-in takes.
        tls: folder of certificates; None without.
        workers: resource of each worker by name, such as GPU; empty: none.
        quick: whether processes are forked from one that has imported everything; their memory is then not their own.
    """

    def __init__(
        self, port: int, seconds: float, tls: Path | None = None, workers: Mapping[str, str] = TWO, *, quick: bool = True
    ) -> None:
        self._workers, self._process = dict(workers), Process if quick else ProcessFromScratch
        self.address = f"{'tls' if tls else 'tcp'}://127.0.0.1:{port}"
        self._port, self._seconds, self._tls = port, seconds, tls
        self.processes: dict[str, Process | ProcessFromScratch] = {}
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

    def command(self, name: str, tls: Path | None) -> list[str]:
        """Returns the kind of a member and the options of its command."""
        if name == "scheduler":
            options = ["scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard", "--no-show"]
        else:
            options = ["worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--name", name]
            options += ["--no-dashboard", "--death-timeout", "20"]
            options += ["--resources", f"{self._workers[name]}=1"] if self._workers[name] else []
        if tls is not None:
            options += ["--protocol", "tls", "--tls-ca-file", str(tls / "ca.pem")]
            options += ["--tls-cert", str(tls / "cert.pem"), "--tls-key", str(tls / "key.pem")]
        return options

    def _start(self, name: str) -> None:
        kind, *options = self.command(name, self._tls)
        variables = {SECONDS_VARIABLE: str(self._seconds)}
        self.processes[name] = self._process(f"distributed.cli.dask_{kind}", options, variables)

    def kill(self, name: str) -> None:
        """Kills a member by SIGKILL; it is started again, as a service manager does."""
        self.processes[name].kill()

    def _supervise(self) -> None:
        while not self._closing.wait(0.2):
            for name, process in list(self.processes.items()):
                if not process.runs and not self._closing.is_set():
                    self._start(name)
