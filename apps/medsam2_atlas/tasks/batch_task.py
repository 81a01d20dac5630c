"""Runs a model on many studies, in MONAI Label's batch process, with the machinery of batches (`medsam2_atlas.batch`).

An error of one study is recorded and does not stop the others. What may pass, such as a PACS that is away, is tried again. The
state is written to the work folder, where the server reads it for clients.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from medsam2_atlas.base.errors import problem_of
from medsam2_atlas.base.files import write_json
from medsam2_atlas.base.json_text import stored_json
from medsam2_atlas.batch.config import batch_config
from medsam2_atlas.storage import WorkFolder

log = logging.getLogger(__name__)

Infer = Callable[[dict[str, Any], Datastore], dict[str, Any]]

_FILE = "batch.json"
_WRITE_SECONDS = 0.5
_MAX_WORKERS = 64


class BatchTask(BatchInferTask):
    """MONAI Label's batch task; with one worker, MONAI Label's own stops at the first failing study."""

    def __init__(self, work: WorkFolder | None = None) -> None:
        """Keeps the work folder.

        Args:
            work: the work folder of the studies, for the state; None writes no state.
        """
        super().__init__()
        self._work = work

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Infer) -> dict[str, Any]:
        """Returns the result for each study; the result of a study that failed has only a `problem`."""
        from medsam2_atlas.batch.conduct import conduct
        from medsam2_atlas.batch.items import Item
        from medsam2_atlas.batch.job import Job
        from medsam2_atlas.batch.plan import Plan
        from medsam2_atlas.batch.tally import Tally

        studies = sorted(self.get_images(request, datastore))[: request.get("max_batch_size") or None]
        engine = _InferEngine(request, datastore, infer)
        written, model = [float("-inf")], str(request.get("model", ""))

        def watch(tally: Tally) -> None:
            if self._work is not None and (time.monotonic() - written[0] > _WRITE_SECONDS or not tally.left):
                written[0] = time.monotonic()
                _write(self._work, {"model": model, "ended": not tally.left, **tally.to_json()})

        plan = Plan([Item(study, "file", study, study) for study in studies], 0, {})
        try:
            conduct(plan, engine, _Entries(), engine, Job(model, Path()), batch_config(), watch)
        finally:
            engine.close()
        return {study: engine.results[study] for study in studies}


def batch_state(work: WorkFolder) -> dict[str, Any] | None:
    """Returns the state of the batch that ran last on a set of studies; None if there was none."""
    try:
        found: dict[str, Any] = stored_json((work.path / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(work: WorkFolder, state: dict[str, Any]) -> None:
    """Writes the state. It contains counts and no names of studies."""
    with suppress(OSError):  # a full disk must not end the batch
        write_json({**state, "updated": time.time()}, work.path / _FILE)


class _Entries:
    """Takes the entries of a manifest: MONAI Label's batches keep none, as stored predictions tell what is done."""

    def add(self, entry: dict[str, Any]) -> None:
        """Ignores an entry."""


class _InferEngine:
    """Runs MONAI Label's inference on studies, in threads; it is an engine and a publisher of batches at once."""

    def __init__(self, request: dict[str, Any], datastore: Datastore, infer: Infer) -> None:
        self._request, self._datastore, self._infer = request, datastore, infer
        self.window = min(max(1, request.get("max_workers") or 1), _MAX_WORKERS)
        self._threads = ThreadPoolExecutor(self.window, "batch")
        self._running: dict[Future[Any], Any] = {}
        self.results: dict[str, Any] = {}

    def submit(self, item: Any) -> None:
        self._running[self._threads.submit(self._run, item.id)] = item

    def completed(self, seconds: float) -> list[Any]:
        return [self._outcome(self._running.pop(future), future) for future in self._ended(seconds)]

    def publish(self, item: Any, done: Any) -> dict[str, Any]:
        return {"study": item.id}

    def is_there(self, entry: dict[str, Any]) -> bool:
        return False

    def withdraw(self, item: Any) -> None:
        pass

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _ended(self, seconds: float) -> set[Future[Any]]:
        return wait(self._running, seconds, FIRST_COMPLETED).done if self._running else set()

    def _run(self, study: str) -> dict[str, Any]:
        label_tag = self._request.get("label_tag", DefaultLabelTag.ORIGINAL)
        one = copy.deepcopy(self._request) | {"image": study, "save_label": True, "label_tag": label_tag}
        result = self._infer(one, self._datastore)
        if file := result.pop("file", None):
            Path(file).unlink(missing_ok=True)
        return result

    def _outcome(self, item: Any, future: Future[Any]) -> Any:
        from medsam2_atlas.batch.outcomes import Done, Outcome
        from medsam2_atlas.batch.problems import is_away, is_disk_full, is_passing, reason_of

        error = future.exception()
        if error is None:
            self.results[item.id] = result = future.result()
            report = result.get("params", {}).get("report", {})
            return Outcome(item, Done(Path(), "", "", {}, {}, {}, kept=bool(report.get("from_cache"))))
        log.error("%s cannot be segmented", item.id, exc_info=error)
        self.results[item.id] = {"problem": problem_of(error)}
        passing, away, fatal = is_passing(error), is_away(error), is_disk_full(error)
        return Outcome(item, reason=reason_of(error), passing=passing, away=away, fatal=fatal)
