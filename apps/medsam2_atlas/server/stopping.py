"""Ends the server in bounded time after SIGTERM or SIGINT, whatever its clients and jobs do.

uvicorn waits without limit for open connections. MONAI Label starts uvicorn and offers no setting for that, so this module
wraps the signal handlers that uvicorn has installed. The steps after a signal:

| seconds | step |
| --- | --- |
| 0 | jobs are cancelled (their clients get 503), event streams end, new requests get 503, training processes are ended |
| 4 | open requests, such as a slow upload, are cancelled (503) |
| 6 | uvicorn closes connections whose clients do not read |
| 13 | the process ends itself, because code in another thread does not return |
| 15 | a timer in native code ends the process and logs the stacks of all threads |
| 17 | a watchdog process kills the server, because native code has held the interpreter since before the signal |

All files are replaced in one step. So ending the process at any time loses nothing that the server has reported as saved.

Concurrency contract. The signal handler may interrupt code that holds any lock, so it only writes a byte into a pipe. A daemon
thread reads the pipe and does the rest. Only the event loop uses the set of open requests.
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
_LOOK_SECONDS = 0.05
_EXIT_SECONDS = 13.0
_DUMP_SECONDS = 15.0
_KILL_SECONDS = 17
_WATCHDOG = """
[ "$(head -c 1 | wc -c)" -eq 1 ] || exit 0  # the server has ended
sleep "$1"
[ "$(cut -d' ' -f4 /proc/$$/stat)" = "$PPID" ] && kill -KILL "$PPID"
"""


class Stopping:
    """The state of the server's stop; makes sure that the server ends."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._calls: list[Callable[[], None]] = []
        self._requests: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Any = None

    @property
    def begun(self) -> bool:
        """Whether a signal to stop has arrived."""
        return self._begun.is_set()

    def on_signal(self, call: Callable[[], None]) -> None:
        """Registers a function that is called in a separate thread as soon as a signal arrives."""
        self._calls.append(call)

    def install(self) -> None:
        """Wraps the installed signal handlers. Call it in the event loop; outside of the main thread it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._loop = asyncio.get_running_loop()
        reads, writes = os.pipe()
        os.set_blocking(writes, False)
        for number in _SIGNALS:
            before = signal.getsignal(number)
            signal.signal(number, _handler(before, writes))
            # uvicorn's handler is a method of its server, so the server's configuration can be changed through it.
            server: Any = getattr(before, "__self__", None)
            if hasattr(getattr(server, "config", None), "timeout_graceful_shutdown"):
                server.config.timeout_graceful_shutdown = _CONNECTIONS_SECONDS
                self._server = server
        threading.Thread(target=self._watch, args=(reads,), name="stopping", daemon=True).start()
        _start_watchdog()

    async def listening(self) -> None:
        """Returns when uvicorn listens on its port, which it opens after the app has started; at once under another server."""
        while not getattr(self._server, "started", True):
            await asyncio.sleep(_LOOK_SECONDS)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Registers the current task as a request, which may be cancelled, for the duration of the block."""
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
        log.info("stopping after %s", signal.Signals(number).name)
        for call in self._calls:
            threading.Thread(target=_logged, args=(call,), daemon=True).start()
        time.sleep(_CANCEL_SECONDS)
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)
        time.sleep(max(0.0, began + _EXIT_SECONDS - time.monotonic()))
        log.error("the server did not end within %.0f s and ends its process now. No saved data is lost.", _EXIT_SECONDS)
        os._exit(128 + number)

    def _cancel(self) -> None:
        for task in list(self._requests):
            task.cancel()


def bounded(call: Callable[[], None], seconds: float) -> None:
    """Calls a function in a daemon thread and waits for it, at most `seconds`. Errors and delays are logged."""
    thread = threading.Thread(target=_logged, args=(call,), daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        log.warning("%s did not return within %.0f s", getattr(call, "__qualname__", call), seconds)


def _start_watchdog() -> None:
    """Starts the process that kills this one if no Python code runs any more after a signal.

    Python's own handlers wait for the interpreter, but the signal's number is written to the wake-up descriptor at once.
    """
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    if before != -1:  # another event loop than asyncio's uses the descriptor
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
        with suppress(BlockingIOError):  # the pipe is full of signals, and the first one is enough
            os.write(writes, bytes([number]))
        if callable(before):
            before(number, frame)

    return handle


def _logged(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:  # the other parts must still be stopped
        log.exception("%s failed while the server was stopping", getattr(call, "__qualname__", call))
