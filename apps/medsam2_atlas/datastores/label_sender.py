"""Sends signed-off label maps to the PACS in a separate thread, so that saving a label map waits a few seconds at most.

The label map stays in the store if sending fails. It is then recorded as `pending` with the reason, and sent again later. If
the label map itself causes the failure, the delay between tries increases; the other label maps are not delayed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import SimpleQueue
from typing import Any

from medsam2_atlas.base.errors import MedSAM2AtlasError, NotFoundError, UnavailableError
from medsam2_atlas.storage import FINAL, Label, StudyStore, Version

log = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS = 60.0
_MAX_RETRY_SECONDS = 3600.0
_NOT_YET = "The PACS has not received it yet; sending continues in the background."

Send = Callable[[Label], Mapping[str, str]]
"""Sends a label map as a DICOM SEG; returns its UIDs as `series` and `instance`."""


class LabelSender:
    """Sends the `final` label maps of a store in one thread, which starts with the first label map. Thread-safe."""

    def __init__(self, store: StudyStore, send: Send) -> None:
        """Creates the sender; its thread starts with the first label map.

        Args:
            store: the store with the label maps.
            send: sends a label map; may raise any error.
        """
        self._store, self._send_label = store, send
        self._lock = threading.Lock()
        self._queue: SimpleQueue[str] = SimpleQueue()
        self._waiting: dict[str, Future[dict[str, Any]]] = {}
        self._thread: threading.Thread | None = None
        self._failures: dict[tuple[str, int], tuple[int, float]] = {}
        """Number of failures caused by the label map itself, and time of the next try, by study and version."""

    def send(self, study: str, seconds: float | None = None) -> dict[str, Any]:
        """Sends a study's final label map unless the PACS already has it, and waits for the result.

        Args:
            study: name of the study.
            seconds: max time to wait; no limit by default.

        Returns:
            The outcome: `state` (`sent` or `pending`) and `version`, with the UIDs `series` and `instance` if it was sent, or
            else the `problem`. Empty if the study has no final label map.
        """
        with self._lock:
            future = self._waiting.get(study)
            if future is None:
                future = self._waiting[study] = Future()
                self._queue.put(study)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="sending", daemon=True)
                self._thread.start()
        try:
            return future.result(timeout=seconds)
        except FutureTimeoutError:
            return {"state": "pending", "problem": _NOT_YET}

    def due(self, study: str, version: Version) -> bool:
        """Returns whether a version has not been sent and may be tried now."""
        _, again = self._failures.get((study, version.number), (0, float("-inf")))
        return not is_sent(version) and time.monotonic() >= again

    def _work(self) -> None:
        while True:
            study = self._queue.get()
            with self._lock:
                future = self._waiting.pop(study)
            try:
                state = self._send_newest(study)
            except Exception as error:  # an error of one label map must not end the thread
                log.exception("the label map of %s could not be sent to the PACS", study)
                state = {"state": "pending", "problem": _text(error)}
            future.set_result(state)

    def _send_newest(self, study: str) -> dict[str, Any]:
        """Sends the current final label map of a study unless it was sent already; records and returns the outcome."""
        try:
            label = self._store.label(study, FINAL)
        except NotFoundError:
            return {}
        version = label.version
        if is_sent(version):
            return dict(version.info["pacs"])
        key, state = (study, version.number), dict[str, Any](version=version.number)
        try:
            state |= {"state": "sent", **self._send_label(label)}
            self._failures.pop(key, None)
        except Exception as error:  # libraries may fail on unusual series; the label map is stored, and sent later
            if not isinstance(error, (MedSAM2AtlasError, OSError)):
                log.exception("the label map of %s cannot be converted to a DICOM SEG", study)
            log.error("the label map of %s could not be sent to the PACS; it is stored, and sent later: %s", study, error)
            state = {"version": version.number, "state": "pending", "problem": _text(error)}
            if not isinstance(error, UnavailableError):
                self._try_later(key)
        self._keep(label, state)
        return state

    def _try_later(self, key: tuple[str, int]) -> None:
        failures = self._failures.get(key, (0, 0.0))[0]
        pause = min(_FIRST_RETRY_SECONDS * 2**failures, _MAX_RETRY_SECONDS)
        self._failures[key] = (failures + 1, time.monotonic() + pause)

    def _keep(self, label: Label, state: Mapping[str, Any]) -> None:
        """Records the outcome of sending a label map; if that fails, the same DICOM instance is sent again later."""
        if label.version.info.get("pacs") == state:
            return
        try:
            self._store.update_label_info(label.study, FINAL, {"pacs": dict(state)})
        except (MedSAM2AtlasError, OSError) as error:
            log.error("the PACS state of the label map of %s cannot be recorded: %s", label.study, error)


def is_sent(version: Version) -> bool:
    """Returns whether this version was sent to the PACS; the copied record of an earlier version does not count."""
    known = version.info.get("pacs")
    return isinstance(known, Mapping) and known.get("state") == "sent" and known.get("version") == version.number


def _text(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:500]
