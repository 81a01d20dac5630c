"""Records whether a change was made, independent of later errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from medsam2_atlas.storage.index import Index

log = logging.getLogger(__name__)

_Value = TypeVar("_Value")


class Outcome(Generic[_Value]):
    """The result of a change. Setting `value` records that the change was made; later errors do not undo it.

    Args:
        what: the name of the changed label map or image, for the log.
    """

    def __init__(self, what: str) -> None:
        self.value: _Value | None = None
        self._what = what

    @contextmanager
    def guarded(self, index: Index) -> Iterator[None]:
        """Passes on errors from before the change; logs errors after it, and then marks the index as out of date."""
        try:
            yield
        except Exception:
            if self.value is None:
                raise
            log.exception("%s: the change was made, but the files or the index are not updated yet", self._what)
            index.mark_outdated()

    def get(self) -> _Value:
        """Returns the result of the change.

        Raises:
            RuntimeError: no change was made.
        """
        if self.value is None:
            raise RuntimeError(f"{self._what}: no change was made")
        return self.value
