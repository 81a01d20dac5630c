"""Starts servers by forking from a process that has already imported the libraries, which saves seconds for each server.

A forked server runs the same code as `medsam2-atlas serve`, with the same arguments, environment and log. The parent process
imports only third-party libraries: none that reads its settings during import, and none of this project's modules.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "torch", "monai", "SimpleITK", "scipy.ndimage", "skimage.measure", "pydicom", "nibabel", "pydantic", "yaml", "typer",
    "fastapi", "uvicorn", "requests", "dicomweb_client", "cryptography.x509", "prometheus_client", "jwt", "psutil",
)  # fmt: skip


class Forked:
    """A forked server with the part of `subprocess.Popen`'s interface that tests use.

    Attributes:
        pid: id of the process.
        returncode: exit status, or the negative signal number after a signal; None until the end has been noticed.
    """

    def __init__(self, pid: int, ending: Path) -> None:
        self.pid, self._ending = pid, ending
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit status; None while the server runs."""
        if self.returncode is None and self._ending.exists():
            self.returncode = int(self._ending.read_text())
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end and returns the exit status.

        Raises:
            subprocess.TimeoutExpired: the server runs longer than `timeout` seconds.
        """
        began = time.monotonic()
        while (status := self.poll()) is None:
            if timeout is not None and time.monotonic() - began > timeout:
                raise subprocess.TimeoutExpired("serve", timeout)
            time.sleep(0.02)
        return status

    def send_signal(self, number: int) -> None:
        """Sends a signal if the server runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


def fork_server(arguments: list[str], environment: dict[str, str], log: Path) -> Forked:
    """Starts `medsam2-atlas` with arguments and an environment. Its output goes to `log`, its exit status next to it."""
    ending = log.with_suffix(".ending")
    ending.unlink(missing_ok=True)
    umask = os.umask(0o022)
    os.umask(umask)
    request = {"arguments": arguments, "environment": environment, "log": str(log), "ending": str(ending), "umask": umask}
    parent = _parent()
    assert parent.stdin is not None and parent.stdout is not None
    parent.stdin.write(json.dumps(request | {"folder": str(Path.cwd())}).encode() + b"\n")
    parent.stdin.flush()
    return Forked(int(parent.stdout.readline()), ending)


@cache
def _parent() -> subprocess.Popen[bytes]:
    """Returns the process from which servers fork. It ends with this process."""
    # `serve` sets the first variable; it takes effect only at a process' start. The second prevents an import that looks for a
    # GPU from initialising CUDA, because forked processes could not use CUDA then.
    variables = os.environ | {"MALLOC_ARENA_MAX": "2", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    parent = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables)
    atexit.register(parent.communicate)  # the parent ends when its input is closed
    return parent


def main() -> None:
    """Forks a server for each line of standard input, prints its process id, and writes its exit status to a file."""
    for name in _LIBRARIES:
        __import__(name)
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a thread would not survive a fork"
    endings: dict[int, Path] = {}
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with open(0, "rb", buffering=0) as lines:
        while True:
            readable, _, _ = select.select([lines, woken], [], [])
            if woken in readable:
                os.read(woken, 4096)
                _write_endings(endings)
            if lines in readable:
                line = lines.readline()
                if not line:
                    return
                request = json.loads(line)
                number = os.fork()
                if not number:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.closerange(3, 64)
                    _become(request)
                endings[number] = Path(request["ending"])
                os.write(1, b"%d\n" % number)


def _write_endings(endings: dict[int, Path]) -> None:
    while endings:
        number, status = os.waitpid(-1, os.WNOHANG)
        if not number:
            return
        file = endings.pop(number)
        part = file.with_suffix(".part")
        part.write_text(str(os.waitstatus_to_exitcode(status)))
        part.replace(file)


def _become(request: dict[str, Any]) -> None:
    """Turns this process into `python -m medsam2_atlas` with the given arguments, environment and log."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666 & ~request["umask"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    own = {str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    libraries = [path for path in sys.path if path not in own]
    os.umask(request["umask"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    logging.root.handlers.clear()  # libraries have set up logging, which would prevent the server from doing so
    logging.root.setLevel(logging.WARNING)

    def run(module: str, arguments: list[str]) -> None:
        sys.argv = [module, *arguments]
        sys.path[:] = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *libraries]
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    def instead_of_execv(program: str, command: list[str]) -> None:
        assert command[:2] == [program, "-m"], command
        run(command[2], command[3:])
        sys.exit(0)

    os.execv = instead_of_execv  # type: ignore[assignment]
    status = 1
    try:
        run("medsam2_atlas", request["arguments"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - any process would print it into its log
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
