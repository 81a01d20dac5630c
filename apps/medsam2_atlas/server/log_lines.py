"""The server's log: one line for each message, whatever is in it, and no study names unless the operator wants them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from medsam2_atlas.base.printable import LineFormatter
from medsam2_atlas.base.study_hash import StudyNames
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.storage import WorkFolder
from server.log_names import LogNames, names_in

_TASKS = "task_"
"""Begin of the names of the loggers that get what work processes print, line by line."""
_STORAGE = ("medsam2_atlas.storage", "datastores.study_datastore")
_QUERIES = ("httpx", "httpcore")
"""Loggers that would tell the queries that go to a PACS, with names of patients."""


def install(studies: str, work: WorkFolder, names: bool) -> None:
    """Makes all handlers of the process write lines that hold no control characters and no names. May be called again.

    Args:
        studies: folder of CTs, or URL of a DICOMweb server.
        work: where the key of the hashes is kept.
        names: whether study names stay as they are.
    """
    remote = is_url(studies)
    folder = Path(studies)
    log_names = LogNames(
        StudyNames(work.path, names),
        (lambda: ()) if remote else lambda: names_in(folder),
        (lambda: None) if remote else lambda: _changed(folder),
    )
    for name in _QUERIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler, logger in _handlers():
        if handler.formatter is None:
            handler.setFormatter(logging.Formatter())
        like = handler.formatter
        while isinstance(like, _Formatter):
            like = like.like
        assert like is not None
        if logger.startswith(_TASKS):  # else what a process prints could look like the server's own lines
            like = logging.Formatter("%(name)s: %(message)s")
        handler.setFormatter(_Formatter(like, log_names))


class _Formatter(LineFormatter):
    """Formats records without names."""

    def __init__(self, like: logging.Formatter, names: LogNames) -> None:
        super().__init__(like, self._hidden)
        self.like, self._names, self._urgent = like, names, False

    def format(self, record: logging.LogRecord) -> str:
        """Returns the lines of a record. Handlers call it one record at a time."""
        self._urgent = record.name.startswith(_STORAGE)
        return super().format(record)

    def _hidden(self, text: str) -> str:
        return self._names.hide(text, self._urgent)


def _handlers() -> Iterator[tuple[logging.Handler, str]]:
    """Yields each handler of the process once, with the name of a logger that has it."""
    seen: set[int] = set()
    for logger in (logging.getLogger(), *list(logging.Logger.manager.loggerDict.values())):
        if isinstance(logger, logging.Logger):
            for handler in logger.handlers:
                if id(handler) not in seen:
                    seen.add(id(handler))
                    yield handler, logger.name


def _changed(folder: Path) -> tuple[int, ...]:
    """Returns what differs if files were added to a studies folder."""
    times = []
    for place in (folder, folder / "labels"):
        with suppress(OSError):
            times.append(os.stat(place).st_mtime_ns)  # noqa: PTH116 called for each message of the storage
    return tuple(times)
