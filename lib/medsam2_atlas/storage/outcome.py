"""Whether a change was made, whatever happens after it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from medsam2_atlas.storage.index import Index

log = logging.getLogger(__name__)

_Value = TypeVar("_Value")


class Outcome(Generic[_Value]):
    """The result of a change. Setting `value` says that the change was made: no error unmakes it from then on."""

    def __init__(self, what: str) -> None:
        """
        Args:
            what: is changed, for the log.
        """
        self.value: _Value | None = None
        self._what = what

    @contextmanager
    def survives(self, index: Index) -> Iterator[None]:
        """Passes errors on that come before the change. Later ones are logged, and the index is filled again."""
        try:
            yield
        except Exception:
            if self.value is None:
                raise
            log.exception("%s: the change is made, but could not be followed up yet", self._what)
            index.overtaken()

    def get(self) -> _Value:
        """The result."""
        if self.value is None:
            raise RuntimeError(f"{self._what}: no change was made")
        return self.value
