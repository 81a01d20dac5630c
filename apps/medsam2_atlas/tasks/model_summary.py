"""What the worklist shows of the models; computed in the background, because loading networks takes seconds at first.

Concurrency contract. At most one thread describes the models at a time. One lock guards the last result and is held only to
read or set it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from medsam2_atlas.base.errors import problem_of

log = logging.getLogger(__name__)

_FRESH_SECONDS = 10.0
"""Age in seconds from which a result is computed again."""
_PATIENCE_SECONDS = 0.3
"""Max time in seconds that a caller waits for a result if there is none yet."""


class ModelSummaries:
    """The last description of the models. Thread-safe."""

    def __init__(self, describe: Callable[[], list[dict[str, Any]]]) -> None:
        """Describes nothing yet.

        Args:
            describe: describes all models; may be slow.
        """
        self._describe, self._lock = describe, threading.Lock()
        self._last: list[dict[str, Any]] = []
        self._ended = float("-inf")
        self._running: threading.Event | None = None

    def get(self) -> list[dict[str, Any]]:
        """Returns the last description of all models; an empty list if they are being loaded for the first time."""
        with self._lock:
            if self._running is None and time.monotonic() - self._ended > _FRESH_SECONDS:
                self._running = threading.Event()
                threading.Thread(target=self._run, args=(self._running,), name="model summary", daemon=True).start()
            running, known = self._running, bool(self._last)
        if running is not None and not known:
            running.wait(_PATIENCE_SECONDS)
        with self._lock:
            return self._last

    def _run(self, done: threading.Event) -> None:
        try:
            found = self._describe()
            with self._lock:
                self._last = found
        except Exception:
            log.exception("the models cannot be described")
        finally:
            with self._lock:
                self._running, self._ended = None, time.monotonic()
            done.set()


def described_model(name: str, task: Any) -> dict[str, Any]:
    """Returns name, title, version and mark of a model, why it cannot run (`missing`), and whether predictions are `stored`.

    Args:
        name: name of the model.
        task: its `SegmenterTask`.
    """
    about = {"name": name, "title": str(task.description), "version": "", "mark": "", "missing": "", "stored": not task.inputs}
    try:
        missing = task.missing()
        if missing:
            return about | {"missing": missing}
        return about | {"version": task.version(), "mark": str(task.info().get("weights_mark") or "")}
    except Exception as error:  # noqa: BLE001 - one broken model must not hide the others
        log.warning("%s cannot be described: %s", name, problem_of(error))
        return about | {"missing": problem_of(error)}
