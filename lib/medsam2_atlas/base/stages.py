"""Names the stages of a run, such as `network`, for observers that measure each stage.

Accounting is exclusive: a nested stage pauses the outer one, and time outside of all stages belongs to the stage `other`.
A stage that nobody observes costs microseconds.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

log = logging.getLogger(__name__)

OTHER = "other"
"""Name of the time outside of all stages."""


class Observer(ABC):
    """Is notified of each change of the stage while it is registered by `observing`, in the thread that registered it."""

    def __init__(self) -> None:
        self._open = [OTHER]

    @property
    def running(self) -> str:
        """The name of the current stage."""
        return self._open[-1]

    @abstractmethod
    def switch(self, before: str) -> None:
        """Receives a change of the stage to `running`; an exception is logged and does not affect the run.

        Args:
            before: name of the stage that ends or pauses.
        """

    def enter(self, name: str) -> None:
        """Begins a stage and pauses the current one."""
        before = self.running
        self._open.append(name)
        if name != before:
            self.switch(before)

    def leave(self) -> None:
        """Ends the current stage and continues the one around it."""
        before = self._open.pop()
        if self.running != before:
            self.switch(before)


_observers: ContextVar[tuple[Observer, ...]] = ContextVar("observers of stages", default=())


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Notifies an observer of all stages in this block. For the observer, the block begins in the stage `other`."""
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)


@contextmanager
def stage(name: str, *, whole: bool = False) -> Iterator[None]:
    """Marks the block as a stage.

    Args:
        name: name of the stage. Blocks of the same name are added up.
        whole: count the stages in the block as parts of this one.
    """
    observers = _observers.get()
    for observer in observers:
        _notify(observer.enter, name)
    token = _observers.set(()) if whole else None
    try:
        yield
    finally:
        if token is not None:
            _observers.reset(token)
        for observer in observers:
            _notify(observer.leave)


def _notify(call: Callable[..., None], *arguments: str) -> None:
    try:
        call(*arguments)
    except Exception:  # drivers and counters raise many types of errors, and none may end the run that is measured
        log.info("a stage was not measured", exc_info=True)
