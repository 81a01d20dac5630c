"""Work that callers start without waiting for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Background:
    """A function that runs in a daemon thread of its own, at most once at a time. Thread-safe.

    Attributes:
        failure: the error of the last run; None if it succeeded, or if there was none.
    """

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        """Starts nothing yet.

        Args:
            name: name of the thread.
            work: the function. The log contains its first error since a success.
        """
        self.failure: Exception | None = None
        self._name, self._work = name, work
        self._running = threading.Lock()

    def start(self) -> bool:
        """Starts the function unless it is running; returns whether it was started. Never waits for it."""
        if not self._running.acquire(blocking=False):
            return False
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except BaseException:  # the system allows no more threads
            self._running.release()
            raise
        return True

    def run(self) -> None:
        """Runs the function in the caller's thread, or waits for its end if it is running; `failure` has its error."""
        if self._running.acquire(blocking=False):
            self._run()
        else:
            with self._running:
                pass

    def wait(self, seconds: float) -> bool:
        """Waits until the function does not run, for some seconds at most; returns whether it does not run."""
        ended = self._running.acquire(timeout=seconds)
        if ended:
            self._running.release()
        return ended

    def _run(self) -> None:
        try:
            self._work()
            self.failure = None
        except Exception as error:
            if self.failure is None:
                log.exception("an error in the thread %r", self._name)
            self.failure = error
        finally:
            self._running.release()
