"""What runs the cases of a batch: in this process, pipelined over threads, or on a cluster (`dask_engine`)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from medsam2_atlas.base.progress import reporting
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.outcomes import Outcome
from medsam2_atlas.batch.prepared import Prepared
from medsam2_atlas.batch.session import Session
from medsam2_atlas.batch.work import guarded, prepare, segment, work_on, write
from medsam2_atlas.studies.runner import Run

T = TypeVar("T")


class Engine(Protocol):
    """Runs cases. One thread calls it."""

    @property
    def window(self) -> int:
        """The number of cases that it should have at a time."""
        ...

    def submit(self, item: Item) -> None:
        """Begins an attempt at a case; its outcome will be one of `completed`."""
        ...

    def completed(self, seconds: float) -> list[Outcome]:
        """Returns the outcomes since the last call, waiting for the first one for up to `seconds`.

        Raises:
            MedSAM2AtlasError: no case can be run any more.
        """
        ...

    def close(self) -> None:
        """Stops running cases."""
        ...


class SerialEngine:
    """Runs one case after the other in the calling thread. It is what the other engines are compared with."""

    window = 1

    def __init__(self, session: Session) -> None:
        """Keeps the models.

        Args:
            session: job and models of this process.
        """
        self._session = session
        self._items: list[Item] = []

    def submit(self, item: Item) -> None:
        """Keeps a case until `completed` runs it."""
        self._items.append(item)

    def completed(self, seconds: float) -> list[Outcome]:  # noqa: ARG002 - a case takes as long as it takes
        """Runs a case and returns its outcome."""
        return [work_on(self._items.pop(0), self._session)] if self._items else []

    def close(self) -> None:
        """Does nothing, as no case is running."""


class _Stopped(BaseException):
    """Ends the work of a thread at its next progress report."""


def kept_scores(read_ahead: int) -> int:
    """Returns the number of CTs between registration and network: those that wait, and one in each of both steps."""
    return read_ahead + 2


class PipelinedEngine:
    """Runs cases in three threads: one reads and registers, one runs the network, one writes.

    While the network works on a CT, the next ones are read and registered on the CPU, and the last one is written. At most
    `read_ahead` prepared CTs wait, so the memory does not grow with the number of cases.
    """

    def __init__(self, session: Session, read_ahead: int) -> None:
        """Starts the threads.

        Args:
            session: job and models of this process; it keeps at least `kept_scores(read_ahead)` score maps.
            read_ahead: max number of CTs that wait for the network.
        """
        self._session = session
        self.window = read_ahead + 3
        self._stop = threading.Event()
        self._items: queue.Queue[Item] = queue.Queue()
        self._prepared: queue.Queue[Prepared] = queue.Queue(read_ahead)
        self._ran: queue.Queue[tuple[Prepared, Run]] = queue.Queue(1)
        self._ended: queue.Queue[Outcome] = queue.Queue()
        steps = (self._prepare, self._segment, self._write)
        self._threads = [threading.Thread(target=self._loop, args=(step,), daemon=True, name=step.__name__) for step in steps]
        for thread in self._threads:
            thread.start()

    def submit(self, item: Item) -> None:
        """Adds a case to those that wait."""
        self._items.put(item)

    def completed(self, seconds: float) -> list[Outcome]:
        """Returns the outcomes since the last call."""
        found = []
        try:
            found.append(self._ended.get(timeout=seconds))
            while True:
                found.append(self._ended.get_nowait())
        except queue.Empty:
            return found

    def close(self) -> None:
        """Stops the threads at their next progress report, and removes temporary files of waiting CTs."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        while not self._prepared.empty():
            self._prepared.get_nowait().close()
        while not self._ran.empty():
            self._ran.get_nowait()[0].close()

    def _loop(self, step: Callable[[], None]) -> None:
        try:
            with reporting(self._check):
                while not self._stop.is_set():
                    step()
        except _Stopped:
            pass

    def _check(self, stage: str, share: float, organ: int | None = None) -> None:  # noqa: ARG002 - called as a progress
        if self._stop.is_set():
            raise _Stopped

    def _prepare(self) -> None:
        item = self._next(self._items)

        def step() -> Outcome:
            self._put(self._prepared, prepare(item, self._session))
            return Outcome(item)

        self._end_if_failed(guarded(item, step))

    def _segment(self) -> None:
        prepared = self._next(self._prepared)

        def step() -> Outcome:
            self._put(self._ran, (prepared, segment(prepared, self._session)))
            return Outcome(prepared.item)

        self._end_if_failed(guarded(prepared.item, step), prepared)

    def _write(self) -> None:
        prepared, ran = self._next(self._ran)
        try:
            self._ended.put(guarded(prepared.item, lambda: Outcome(prepared.item, write(prepared, ran, self._session))))
        finally:
            prepared.close()

    def _end_if_failed(self, outcome: Outcome, prepared: Prepared | None = None) -> None:
        if outcome.reason:
            if prepared is not None:
                prepared.close()
            self._ended.put(outcome)

    def _next(self, source: queue.Queue[T]) -> T:
        """Waits for an entry of a queue, until the engine is closed."""
        while True:
            self._check("", 0.0)
            try:
                return source.get(timeout=0.1)
            except queue.Empty:
                continue

    def _put(self, target: queue.Queue[T], entry: T) -> None:
        """Waits for room in a queue, until the engine is closed."""
        while True:
            self._check("", 0.0)
            try:
                return target.put(entry, timeout=0.1)
            except queue.Full:
                continue
