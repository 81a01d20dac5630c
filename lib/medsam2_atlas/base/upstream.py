"""Limits how long calls to other servers can delay this server.

A server that refuses connections is detected immediately; one that accepts connections and never answers is not. Three measures
stop such a server from blocking everything else: time limits, a `CircuitBreaker` that refuses calls for a while after one was
not answered, and a `CallPool` whose few daemon threads are the only ones that can be stuck.

All classes in this module are safe for several threads. No lock is held during a call to another server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

from medsam2_atlas.base.errors import UnavailableError

_OPEN_SECONDS = 5.0
_POLL_SECONDS = 0.25
T = TypeVar("T")


class CircuitBreaker:
    """Refuses calls to a server for some seconds after one was not answered; then allows a single call as a trial.

    A call that fails opens the breaker only if no other call was answered since it began. If other calls are answered, the
    server is alive, and one slow request must not stop the rest.
    """

    def __init__(
        self,
        name: str,
        *,
        seconds: float = _OPEN_SECONDS,
        remedy: str = "Is it running? Try again in a minute.",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Creates a closed breaker.

        Args:
            name: name of the server, for messages.
            seconds: how long calls are refused after one was not answered, and min time between two trials.
            remedy: advice for the error message.
            clock: a monotonic clock, in seconds.
        """
        self._name, self._seconds, self._remedy, self._clock = name, seconds, remedy, clock
        self._lock = threading.Lock()
        self._problem = ""
        self._next_trial = float("-inf")
        """Time at which the next trial may begin."""
        self._answered = self._failed = float("-inf")
        self._unanswered: list[float] = []
        """Start times of the calls since the last answer, except calls that failed or were given up."""

    @property
    def open(self) -> bool:
        """Whether calls other than a trial are refused, because the last call was not answered."""
        with self._lock:
            return bool(self._problem)

    @property
    def problem(self) -> str:
        """The reason why the breaker is open; empty if it is closed."""
        with self._lock:
            return self._problem

    @property
    def ready(self) -> bool:
        """Whether a call would be allowed now."""
        with self._lock:
            return not self._problem or self._clock() >= self._next_trial

    def silent(self, seconds: float) -> bool:
        """Returns whether the oldest call has been without an answer for more than `seconds`, or the breaker is open."""
        with self._lock:
            return bool(self._problem) or (bool(self._unanswered) and self._clock() - min(self._unanswered) > seconds)

    def now(self) -> float:
        """Returns the time of the breaker's clock, in seconds."""
        return self._clock()

    def failed_since(self, began: float) -> bool:
        """Returns whether the breaker has opened since `began` and is still open. began: a time on the breaker's clock."""
        with self._lock:
            return bool(self._problem) and self._failed >= began

    def begin(self) -> float:
        """Begins a call.

        Returns:
            The time of its start on the breaker's clock, for `failed` and `given_up`.

        Raises:
            UnavailableError: the breaker is open, and the time for the next trial has not come.
        """
        with self._lock:
            now = self._clock()
            if self._problem:
                if now < self._next_trial:
                    raise self._error()
                self._next_trial = now + self._seconds  # this call is the trial
            self._unanswered.append(now)
            return now

    def answered(self) -> None:
        """Records that a call was answered; the content of the answer does not matter."""
        with self._lock:
            self._answered, self._problem = self._clock(), ""
            self._unanswered.clear()

    def failed(self, began: float, problem: str) -> None:
        """Records that a call was not answered.

        Args:
            began: the time of its start, from `begin`.
            problem: the reason, for later error messages.
        """
        with self._lock:
            self._forget(began)
            if self._answered <= began:
                self._problem, self._failed = problem[:500] or "no answer", self._clock()
                self._next_trial = self._failed + self._seconds

    def given_up(self, began: float) -> None:
        """Records that a call ended before the server could answer. It does not count as unanswered.

        Args:
            began: the time of its start, from `begin`.
        """
        with self._lock:
            self._forget(began)

    @contextmanager
    def guard(self, *failures: type[Exception]) -> Iterator[None]:
        """Runs a block that calls the server; the block may contain `await`.

        Args:
            failures: types of exceptions that mean "not answered". After any other exception, or if the block is cancelled, the
                call does not count.

        Raises:
            UnavailableError: the breaker is open, or the block raised one of `failures`.
        """
        began = self.begin()
        try:
            yield
        except failures as error:
            self.failed(began, str(error) or type(error).__name__)
            raise UnavailableError(
                self._name, f"does not answer ({str(error)[:300] or type(error).__name__}).", self._remedy
            ) from error
        except BaseException:  # also a cancelled request
            self.given_up(began)
            raise
        self.answered()

    def _forget(self, began: float) -> None:
        with suppress(ValueError):  # another call was answered meanwhile
            self._unanswered.remove(began)

    def _error(self) -> UnavailableError:
        return UnavailableError(self._name, f"does not answer ({self._problem[:300]}).", self._remedy)


class CallPool:
    """Runs slow calls in a few daemon threads; limits the number of waiting callers and how long they wait.

    Callers with the same key share one call. The threads are daemons, so a stuck thread does not keep the process alive.
    """

    def __init__(self, name: str, *, threads: int, waiting: int, remedy: str = "Try again in a minute.") -> None:
        """Creates a pool without calls.

        Args:
            name: name of the server, for messages and threads.
            threads: max number of calls that run at once.
            waiting: max number of callers that wait at once, and of calls that are queued or running.
            remedy: advice for the error message.
        """
        self._name, self._waiting, self._remedy = name, waiting, remedy
        self._slots = threading.Semaphore(threads)
        self._lock = threading.Lock()
        self._calls: dict[Hashable, Future[Any]] = {}
        self._callers = 0

    def run(self, key: Hashable, call: Callable[[], T], *, seconds: float, gives_up: Callable[[], bool] = lambda: False) -> T:
        """Returns the result of a call, which another caller may have started.

        Args:
            key: identifies the call; equal calls have equal keys.
            call: the function to run if no call with this key is running.
            seconds: max time to wait for the result.
            gives_up: called several times per second; True ends the wait.

        Raises:
            UnavailableError: there are too many calls or callers, the result did not come in time, or `gives_up` returned True.
                A call that has started continues.
            Exception: any error of the call.
        """
        with self._lock:
            if self._callers >= self._waiting or (key not in self._calls and len(self._calls) >= self._waiting):
                raise UnavailableError(self._name, "has too many requests at once.", self._remedy)
            self._callers += 1
            future = self._calls.get(key) or self._start(key, call)
        deadline = time.monotonic() + seconds
        try:
            while not wait([future], timeout=max(0.0, min(_POLL_SECONDS, deadline - time.monotonic()))).done:
                if gives_up():
                    raise UnavailableError(self._name, "does not answer.", self._remedy)
                if time.monotonic() >= deadline:
                    raise UnavailableError(self._name, f"has not answered within {seconds:.0f} s.", self._remedy)
            return cast("T", future.result())
        finally:
            with self._lock:
                self._callers -= 1

    def _start(self, key: Hashable, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls[key] = future

        def work() -> None:
            try:
                with self._slots:
                    result = call()
            except BaseException as error:  # noqa: BLE001 the error is passed to the callers, which wait in other threads
                self._forget(key)
                future.set_exception(error)
            else:
                self._forget(key)
                future.set_result(result)

        threading.Thread(target=work, name=self._name, daemon=True).start()
        return future

    def _forget(self, key: Hashable) -> None:
        with self._lock:
            self._calls.pop(key, None)
