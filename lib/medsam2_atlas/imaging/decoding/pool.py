"""Reader processes, which decode files from outside. A bad file can only end its reader.

Concurrency contract. A reader serves one caller at a time; callers wait for a free reader. One lock protects the list of idle
readers; it is never held while a reader works or starts. A reader that died, hung or used too much memory is replaced. Results
arrive as anonymous shared memory that the caller's arrays own: nothing is copied, and nothing remains on disk. After a fork,
the child starts its own readers.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medsam2_atlas.base.errors import StorageError, UnavailableError
from medsam2_atlas.imaging.decoding.limits import DecodingLimits
from medsam2_atlas.imaging.decoding.tasks import PACKET_BYTES, READY

log = logging.getLogger(__name__)

_PROGRAM = "medsam2_atlas.imaging.decoding.worker"
_START_SECONDS = 60.0
_WAIT_SECONDS = 90.0
_MAX_WAITING = 24
"""Max number of callers that wait for a reader. A server has 40 threads; the rest handle requests that need no reader."""
_MAX_HANDLES = 16
_BUSY_SHARE = 0.5
"""A reader that used more of its time was busy with the file. Otherwise it waited, for example for a network drive."""
_MAX_IDLE_MB = 700.0
"""Max memory of a reader after its task, in MB. A larger reader is replaced, which returns its memory to the system."""
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class ReaderDiedError(Exception):
    """The error of a reader process that ended, or was ended, during a task.

    Attributes:
        how: the way in which the reader ended, as the rest of a sentence that begins with the file.
        lasting: whether the file is certainly the cause, rather than another process, a slow disk or too little memory.
        killed: whether another process ended the reader.
    """

    def __init__(self, how: str, *, lasting: bool = True, killed: bool = False) -> None:
        self.how, self.lasting, self.killed = how, lasting and not killed, killed
        super().__init__(how)


@dataclass(frozen=True)
class Reply:
    """The result of a task.

    Attributes:
        content: the dictionary that the task returned.
        arrays: the arrays that the task returned.
        problem: the error that the reader sent instead of a result; see `worker`.
        resident_mb: memory of the reader after the task, in MB.
    """

    content: dict[str, Any] = field(default_factory=dict)
    arrays: tuple[np.ndarray, ...] = ()
    problem: dict[str, Any] = field(default_factory=dict)
    resident_mb: float = 0.0


class _Reader:
    """A reader process and the socket to it."""

    def __init__(self, limits: DecodingLimits) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", _PROGRAM, str(theirs.fileno()), limits.model_dump_json()]
            self._process = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": _python_path()},
            )
        self._link = ours
        self._ready = False

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, task: str, arguments: dict[str, Any], seconds: float) -> Reply:
        """Runs a task. Raises ReaderDiedError, or StorageError if the reader does not start; the caller must then end it."""
        if not self.is_ready():
            raise StorageError("reader process", "does not start.", "Read the log. Is there enough memory?")
        self._link.settimeout(seconds)
        worked = self._processor_seconds()
        try:
            self._link.sendall(json.dumps({"task": task, "arguments": arguments, "seconds": seconds}).encode())
            packet, handles, _, _ = socket.recv_fds(self._link, PACKET_BYTES, _MAX_HANDLES)
        except TimeoutError:
            busy = self._processor_seconds() - worked > _BUSY_SHARE * seconds
            raise ReaderDiedError(f"took longer than {seconds:.0f} s to decode.", lasting=busy) from None
        except OSError as error:
            raise self._death() from error
        try:
            if not packet:
                raise self._death()
            return _reply(packet, handles)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ReaderDiedError("made its reader process send an invalid reply.") from error
        finally:
            for handle in handles:
                os.close(handle)

    def _processor_seconds(self) -> float:
        """Returns the processor time that the process has used, in seconds."""
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def is_ready(self) -> bool:
        """Waits until the process is ready for tasks; returns False if it does not start."""
        if not self._ready:
            self._link.settimeout(_START_SECONDS)
            try:
                self._ready = self._link.recv(PACKET_BYTES) == READY
            except OSError as error:
                log.error("a reader process does not start: %s", error)
        return self._ready

    def end(self) -> None:
        self._link.close()
        with suppress(ProcessLookupError):
            self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # it may be stuck in the kernel, for example on a dead network drive
            self._process.wait(timeout=5)

    def _death(self) -> ReaderDiedError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        code = self._process.returncode or 0
        if code == -signal.SIGXCPU:
            return ReaderDiedError("took more processor time to decode than the limits allow.")
        how = f"signal {-code}, {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return ReaderDiedError(f"ended its reader process ({how}).", killed=code == -signal.SIGKILL)


class ReaderPool:
    """The reader processes for all threads of this process."""

    def __init__(self, limits: DecodingLimits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._free = threading.Semaphore(limits.processes)
        self._idle: list[_Reader] = []
        self._waiting = 0
        self._owner, self._closed = os.getpid(), False

    @property
    def usable(self) -> bool:
        """Whether this process created the pool and has not closed it."""
        return self._owner == os.getpid() and not self._closed

    def start(self) -> None:
        """Starts all readers in the background, so that the first tasks do not wait for one."""
        for _ in range(self.limits.processes):
            self._put_back(_Reader(self.limits))

    def run(self, task: str, arguments: dict[str, Any], seconds: float, *, patience: float = _WAIT_SECONDS) -> Reply:
        """Runs a task in a reader, and returns its reply.

        Args:
            task: name of the task, one of `TASKS`.
            arguments: arguments of the task's function; they must be valid in JSON.
            seconds: max wall time and max processor time, in seconds.
            patience: max time to wait for a free reader, in seconds.

        Raises:
            ReaderDiedError: the reader ended, or was ended at the time limit.
            StorageError: no reader starts.
            UnavailableError: too many callers wait for a reader, or no reader became free in time.
        """
        with self._turn(patience):
            reader = self._take()
            try:
                reply = reader.run(task, arguments, seconds)
            except BaseException:
                self._replace(reader)
                raise
            if reply.resident_mb > _MAX_IDLE_MB:
                self._replace(reader)
            else:
                self._put_back(reader)
            return reply

    @contextmanager
    def _turn(self, patience: float) -> Iterator[None]:
        """Waits for a free reader. Time and number of waiting callers are limited, so that a server has threads left."""
        with self._lock:
            if self._waiting >= _MAX_WAITING:
                raise _busy()
            self._waiting += 1
        try:
            free = self._free.acquire(timeout=patience)
        finally:
            with self._lock:
                self._waiting -= 1
        if not free:
            raise _busy()
        try:
            yield
        finally:
            self._free.release()

    def close(self) -> None:
        """Ends all readers; running tasks fail."""
        with self._lock:
            self._closed, idle, self._idle = True, self._idle, []
        for reader in idle:
            reader.end()

    def _take(self) -> _Reader:
        """Returns an idle reader that works, or a new one."""
        while True:
            with self._lock:
                reader = self._idle.pop() if self._idle else None
            if reader is None:
                return _Reader(self.limits)
            if reader.alive and reader.is_ready():  # otherwise it was killed, maybe before it was ready
                return reader
            reader.end()

    def _replace(self, reader: _Reader) -> None:
        """Ends a reader and starts a new one in the background."""
        reader.end()
        if not self._closed:
            try:
                self._put_back(_Reader(self.limits))
            except OSError as error:  # the next caller tries again
                log.error("a reader process cannot be started: %s", error)

    def _put_back(self, reader: _Reader) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(reader)
                return
        reader.end()


def _reply(packet: bytes, handles: list[int]) -> Reply:
    message = json.loads(packet)
    resident = float(message.pop("resident_mb"))
    if "arrays" not in message:
        return Reply(problem=message, resident_mb=resident)
    with os.fdopen(os.dup(handles[0]), "rb") as stream:
        stream.seek(0)
        content = json.loads(stream.read())
    arrays = tuple(_array(handle, about) for handle, about in zip(handles[1:], message["arrays"], strict=True))
    return Reply(content, arrays, resident_mb=resident)


def _array(handle: int, about: dict[str, Any]) -> np.ndarray:
    dtype, shape = np.dtype(str(about["dtype"])), tuple(int(n) for n in about["shape"])
    length = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    sealed = fcntl.fcntl(handle, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    if not sealed or dtype.hasobject or min(shape, default=0) < 0 or os.fstat(handle).st_size < length:
        raise ValueError("not an array")
    if not length:
        return np.zeros(shape, dtype)
    # A private map: writes of a forked child do not reach the parent.
    memory = mmap.mmap(handle, length, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return np.frombuffer(memory, dtype).reshape(shape)


def _busy() -> UnavailableError:
    return UnavailableError("reader processes", "are all busy.", "Try again in a minute.")


def _python_path() -> str:
    """Returns the reader's PYTHONPATH, which does not depend on the parent's working folder."""
    return os.pathsep.join(path for path in sys.path if path)
