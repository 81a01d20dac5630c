"""Ends the server in bounded time when it gets SIGTERM or SIGINT, whatever its clients and its jobs do.

uvicorn waits without limit for open connections, and its settings are out of reach: MONAI Label starts it. So the signal
handlers that uvicorn has installed are wrapped here. What happens after a signal, in seconds:

| when | what |
| --- | --- |
| 0 | jobs are cancelled and their clients get 503, event streams end, new requests get 503, training processes are ended |
| 4 | requests that are still open, such as a slow upload, are cancelled: 503 |
| 6 | uvicorn gives up on connections that nobody reads from |
| 13 | the process ends itself: code in another thread does not return |
| 15 | the same, by a timer in native code, which logs where all threads are |
| 17 | a process beside the server kills it: native code has kept the interpreter to itself since before the signal |

All files are replaced in one step, so that ending the process at any time loses nothing that a client was told is saved.

Concurrency contract. The signal handler only writes a byte into a pipe: it may interrupt any code that holds any lock. A
daemon thread reads the pipe and does the rest. The set of open requests belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CANCEL_SECONDS = 4.0
_CONNECTIONS_SECONDS = 6
_EXIT_SECONDS = 13.0
_DUMP_SECONDS = 15.0
_KILL_SECONDS = 17
_WATCHDOG = """
[ "$(head -c 1 | wc -c)" -eq 1 ] || exit 0  # the server has ended
sleep "$1"
[ "$(cut -d' ' -f4 /proc/$$/stat)" = "$PPID" ] && kill -KILL "$PPID"
"""


class Stopping:
    """Signals that the server stops, and makes sure that it ends."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._calls: list[Callable[[], None]] = []
        self._requests: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def begun(self) -> bool:
        """Returns whether a signal to stop has arrived."""
        return self._begun.is_set()

    def call(self, what: Callable[[], None]) -> None:
        """Registers a function that is called in a separate thread as soon as a signal arrives."""
        self._calls.append(what)

    def install(self) -> None:
        """Wraps the installed signal handlers; called in the event loop. Does nothing outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._loop = asyncio.get_running_loop()
        reads, writes = os.pipe()
        os.set_blocking(writes, False)
        for number in _SIGNALS:
            before = signal.getsignal(number)
            signal.signal(number, _handler(before, writes))
            # uvicorn's handler is a method of the server, whose configuration has the limit that MONAI Label does not set.
            server = getattr(before, "__self__", None)
            if hasattr(getattr(server, "config", None), "timeout_graceful_shutdown"):
                server.config.timeout_graceful_shutdown = _CONNECTIONS_SECONDS  # type: ignore[union-attr]
        threading.Thread(target=self._watch, args=(reads,), name="stopping", daemon=True).start()
        _start_watchdog()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Registers the current task as one that serves a request and may be cancelled."""
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        try:
            yield
        finally:
            self._requests.discard(task)

    def _watch(self, reads: int) -> None:
        number = os.read(reads, 1)[0]
        began = time.monotonic()
        faulthandler.dump_traceback_later(_DUMP_SECONDS, exit=True, file=sys.__stderr__ or sys.stderr)
        self._begun.set()
        log.info("stopping, after %s", signal.Signals(number).name)
        for call in self._calls:
            threading.Thread(target=_logged, args=(call,), daemon=True).start()
        time.sleep(_CANCEL_SECONDS)
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)
        time.sleep(max(0.0, began + _EXIT_SECONDS - time.monotonic()))
        log.error(
            "the server did not end within %.0f s; its process is ended now. Nothing that was saved is lost.", _EXIT_SECONDS
        )
        os._exit(128 + number)

    def _cancel(self) -> None:
        for task in list(self._requests):
            task.cancel()


def bounded(what: Callable[[], None], seconds: float) -> None:
    """Calls a function in a daemon thread and waits at most so many seconds for it."""
    thread = threading.Thread(target=_logged, args=(what,), daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        log.warning("%s did not return within %.0f s", getattr(what, "__qualname__", what), seconds)


def _start_watchdog() -> None:
    """Starts the process that kills this one if no Python code runs any more after a signal.

    Python's own handlers wait for the interpreter. The number of a signal is written to the wake-up descriptor at once.
    """
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    if before != -1:  # an event loop other than asyncio's uses it
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        os.close(writes)
    else:
        command = ["/bin/sh", "-c", _WATCHDOG, "medsam2-atlas-watchdog", str(_KILL_SECONDS)]
        try:  # in a separate session, so that Ctrl-C does not end it
            subprocess.Popen(command, stdin=reads, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            log.warning("the server has no watchdog: %s", error)
    os.close(reads)


def _handler(before: Any, writes: int) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        with suppress(BlockingIOError):  # the pipe is full of signals; the first one suffices
            os.write(writes, bytes([number]))
        if callable(before):
            before(number, frame)

    return handle


def _logged(what: Callable[[], None]) -> None:
    try:
        what()
    except Exception:  # the other parts must still be stopped
        log.exception("%s failed while the server stops", getattr(what, "__qualname__", what))
