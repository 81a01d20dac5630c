"""Formats the server's log: one line for each message, and no study names unless the operator allows them."""

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
"""Prefix of the names of the loggers that receive the printed lines of work processes."""
_STORAGE = ("medsam2_atlas.storage", "datastores.study_datastore")
_QUERIES = ("httpx", "httpcore")
"""Loggers that would log the queries to a PACS, which contain names of patients."""


def install(studies: str, work: WorkFolder, names: bool) -> None:
    """Makes all log handlers of the process write lines without control characters and study names. May be called again.

    Args:
        studies: folder of CTs, or URL of a DICOMweb server.
        work: folder that contains the key of the hashes.
        names: whether to log study names unchanged.
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
        if logger.startswith(_TASKS):  # otherwise printed lines could imitate the server's own lines
            like = logging.Formatter("%(name)s: %(message)s")
        handler.setFormatter(_Formatter(like, log_names))


class _Formatter(LineFormatter):
    """A formatter that replaces study names."""

    def __init__(self, like: logging.Formatter, names: LogNames) -> None:
        super().__init__(like, self._hidden)
        self.like, self._names, self._urgent = like, names, False

    def format(self, record: logging.LogRecord) -> str:
        """Returns the lines of a record. Handlers format one record at a time."""
        self._urgent = record.name.startswith(_STORAGE)
        return super().format(record)

    def _hidden(self, text: str) -> str:
        return self._names.hide(text, self._urgent)


def _handlers() -> Iterator[tuple[logging.Handler, str]]:
    """Yields each handler of the process once, with the name of a logger that uses it."""
    seen: set[int] = set()
    for logger in (logging.getLogger(), *list(logging.Logger.manager.loggerDict.values())):
        if isinstance(logger, logging.Logger):
            for handler in logger.handlers:
                if id(handler) not in seen:
                    seen.add(id(handler))
                    yield handler, logger.name


def _changed(folder: Path) -> tuple[int, ...]:
    """Returns the times of a studies folder, which change if files are added."""
    times = []
    for one in (folder, folder / "labels"):
        with suppress(OSError):
            times.append(os.stat(one).st_mtime_ns)  # noqa: PTH116 called for each message of the storage
    return tuple(times)
