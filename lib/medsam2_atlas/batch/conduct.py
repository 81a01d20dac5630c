"""Runs a batch to its end: submits cases, repeats attempts, publishes results, and keeps the manifest.

One thread does all of this, and it alone writes results and manifest. A case is done once its line is in the manifest. A
process that is killed before loses only cases without a line; they are done again, and equal outputs replace theirs.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, StorageError
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.engine import Engine
from medsam2_atlas.batch.items import Item, stamp_of
from medsam2_atlas.batch.job import Job
from medsam2_atlas.batch.manifest import Entry, Manifest
from medsam2_atlas.batch.names import Names
from medsam2_atlas.batch.problems import is_away, is_disk_full, is_passing, reason_of
from medsam2_atlas.batch.publish import Publisher
from medsam2_atlas.batch.sources import Found, named, wished_name
from medsam2_atlas.batch.work import Done, Outcome

log = logging.getLogger(__name__)

_WAIT_SECONDS = 0.5
_RECENT = 200
"""Number of the last cases from which throughput is estimated."""


@dataclass
class Tally:
    """The state of a run.

    Attributes:
        total: number of all cases of the source.
        kept: number of cases whose results of earlier runs are valid.
        done: number of cases done in this run.
        failed: why cases failed in this run, or cannot be used, by name.
        repeated: number of attempts after the first one.
        running: number of cases that are being worked on.
        waiting: number of cases that wait for another attempt.
    """

    total: int = 0
    kept: int = 0
    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    repeated: int = 0
    running: int = 0
    waiting: int = 0
    began: float = field(default_factory=time.monotonic)
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def ended(self) -> None:
        """Notes that a case has ended."""
        self._ends.append(time.monotonic())

    @property
    def left(self) -> int:
        """The number of cases without an end."""
        return max(0, self.total - self.kept - self.done - len(self.failed))

    @property
    def per_hour(self) -> float | None:
        """The throughput over the last cases, in cases an hour; None before two cases have ended."""
        if len(self._ends) < 2:
            return None
        first = self.began if len(self._ends) < _RECENT else self._ends[0]
        return 3600 * (len(self._ends) - (len(self._ends) == _RECENT)) / max(self._ends[-1] - first, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """The estimated time to the end, in s; None if it is unknown."""
        return None if self.per_hour is None else 3600 * self.left / self.per_hour

    def to_json(self) -> dict[str, Any]:
        """Returns the state as JSON values."""
        about = {name: getattr(self, name) for name in ("total", "kept", "done", "repeated", "running", "waiting", "left")}
        return about | {"failed": len(self.failed), "per_hour": self.per_hour, "seconds_left": self.seconds_left}


Watch = Callable[[Tally], None]
"""Is called with the state at the start, after each step of a run, and while it waits."""


def unwatched(tally: Tally) -> None:
    """Ignores the state."""


class Entries(Protocol):
    """Takes the entry of each case that has ended, as a manifest does."""

    def add(self, entry: Entry) -> None:
        """Keeps an entry; raises OSError if the disk is full."""
        ...


@dataclass(frozen=True)
class Plan:
    """The cases to do.

    Attributes:
        items: the items without a valid result, with names and stamps.
        kept: number of valid results.
        left_out: why other inputs cannot be used, by name.
        unusable: the entries of those that the manifest does not have yet.
        changed: ids of items whose CTs have changed since the manifest's entry.
    """

    items: Sequence[Item]
    kept: int
    left_out: Mapping[str, str]
    unusable: Sequence[Entry] = ()
    changed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, found: Found, manifest: Manifest, job: Job, publisher: Publisher, *, retry_failed: bool = False) -> Plan:
        """Compares a source with a manifest.

        A case is done again if its CT, what it is made with, or its result has changed. A case that failed for a reason that
        repeats is done again only if its CT or what it is made with has changed, or with `retry_failed`.

        Args:
            found: the items of the source.
            manifest: the manifest of earlier runs.
            job: the job, with its key.
            publisher: knows whether results are still there.
            retry_failed: whether all failed cases are done again.

        Raises:
            InputError: the manifest has results of other CTs with the same ids.
        """
        names, items, kept = Names(manifest.names()), list[Item](), 0
        left_out, unusable, changed = dict[str, str](), list[Entry](), set[str]()

        def leave_out(item: Item, reason: str) -> None:
            name = names.of(item.id, wished_name(item))
            left_out[name] = reason
            known = manifest.entry(item.id)
            if known is None or known.get("reason") != reason or known["made_by"] != job.key:
                unusable.append(_failure(replace(item, name=name), job.key, reason, passing=True, attempts=0))

        for item in found.items:
            try:
                item = named(item, names.of(item.id, wished_name(item)), stamp_of(item))
            except (OSError, MedSAM2AtlasError) as error:
                leave_out(item, reason_of(error))
                continue
            entry = manifest.entry(item.id)
            before = {} if entry is None else entry.get("input", {})
            if job.results != "studies" and _is_another(before.get("path"), item):  # a studies folder refuses it itself
                problem = f"is another CT than {before['path']}, whose results the folder contains under the same name."
                raise InputError(item.path, problem, "Name another folder for the outputs.")
            if entry is not None and before.get("stamp") != item.stamp:
                changed.add(item.id)
            same = entry is not None and entry["made_by"] == job.key and before.get("stamp") == item.stamp
            if same and entry is not None:
                failed = entry["status"] == "failed"
                if failed and not retry_failed and not entry.get("passing"):
                    left_out[item.name] = str(entry.get("reason", ""))
                    continue
                if entry["status"] == "done" and publisher.is_there(entry):
                    kept += 1
                    continue
            items.append(item)
        for key, reason in found.left_out.items():
            leave_out(Item(key, "file", key), reason)
        return cls(items, kept, left_out, unusable, frozenset(changed))


def conduct(
    plan: Plan,
    engine: Engine,
    manifest: Entries,
    publisher: Publisher,
    job: Job,
    config: BatchConfig,
    watch: Watch = unwatched,
) -> Tally:
    """Runs all cases of a plan; returns the final state.

    Args:
        plan: the cases.
        engine: runs them.
        manifest: gets an entry for each of them.
        publisher: puts results where the user wants them.
        job: the job, with its key.
        config: attempts and pauses.
        watch: is called with the state.

    Raises:
        StorageError: the disk is full; what is done is kept.
        MedSAM2AtlasError: the engine cannot run any case any more.
    """
    return _Run(plan, engine, manifest, publisher, job, config, watch).to_end()


class _Run:
    """The state of `conduct`."""

    def __init__(
        self, plan: Plan, engine: Engine, manifest: Entries, publisher: Publisher, job: Job, config: BatchConfig, watch: Watch
    ) -> None:
        self._engine, self._manifest, self._publisher = engine, manifest, publisher
        self._job, self._config, self._watch = job, config, watch
        self._new = iter(plan.items)
        self._later: list[tuple[float, int, Item]] = []
        self._order = itertools.count()
        self._running: dict[str, Item] = {}
        self._attempts: dict[str, int] = {}
        self._paused_until = 0.0
        self._changed_items = plan.changed
        total = len(plan.items) + plan.kept + len(plan.left_out)
        self._tally = Tally(total, plan.kept, failed=dict(plan.left_out))

    def to_end(self) -> Tally:
        self._changed()
        while True:
            self._submit()
            if not self._running and not self._later:
                return self._tally
            for outcome in self._engine.completed(self._pause()):
                self._take(outcome)
            self._changed()

    def _pause(self) -> float:
        """Returns the longest time to wait for outcomes, in s."""
        if self._running or not self._later:
            return _WAIT_SECONDS
        time.sleep(min(max(self._later[0][0] - time.monotonic(), 0.0), _WAIT_SECONDS))
        return 0.0

    def _submit(self) -> None:
        while len(self._running) < self._engine.window:
            now = time.monotonic()
            item = None
            if self._later and self._later[0][0] <= now:
                item = heapq.heappop(self._later)[2]
            elif now >= self._paused_until:
                item = next(self._new, None)
            if item is None:
                return
            self._running[item.id] = item
            self._attempts[item.id] = self._attempts.get(item.id, 0) + 1
            self._engine.submit(item)

    def _take(self, outcome: Outcome) -> None:
        item = self._running.pop(outcome.item.id, None)
        if item is None:  # a second result of a case that was repeated on another worker
            if outcome.done is not None:
                outcome.done.part.unlink(missing_ok=True)
            return
        if outcome.fatal:
            raise full_disk(item.name, outcome.reason)
        if outcome.done is None:
            self._failed(item, outcome)
            return
        try:
            output = self._publisher.publish(item, outcome.done)
        except Exception as error:
            if is_disk_full(error):
                raise full_disk(item.name, reason_of(error)) from error
            log.info("the result of %s cannot be stored", item.id, exc_info=True)
            self._failed(item, Outcome(item, None, reason_of(error), is_passing(error), is_away(error), worker=outcome.worker))
            return
        about = self._result(item, outcome.done, output)
        self._add(_entry(item, "done", self._job.key, about, self._attempts.pop(item.id)), outcome.worker)
        self._tally.done += 1

    def _result(self, item: Item, done: Done, output: dict[str, Any]) -> dict[str, Any]:
        made_on: dict[str, Any] = {k: v for k, v in done.provenance.items() if k in ("device", "precision")}
        return {
            "input": {"path": item.path, "stamp": item.stamp, "sha256": done.input_sha256},
            "output": output,
            "seconds": done.seconds,
            **made_on,
        }

    def _failed(self, item: Item, outcome: Outcome) -> None:
        attempts, reason, passing = self._attempts[item.id], outcome.reason, outcome.passing
        if passing and attempts < self._config.attempts:
            pause = min(self._config.first_pause * 2 ** (attempts - 1), self._config.max_pause)
            log.warning("%s: %s It is tried again in %.0f s.", item.name, reason, pause)
            again = time.monotonic() + pause
            if outcome.away:
                self._paused_until = again
            heapq.heappush(self._later, (again, next(self._order), item))
            self._tally.repeated += 1
            return
        log.info("%s: %s", item.name, reason)
        if not passing or item.id in self._changed_items:  # what is there belongs to the previous CT, or to no entry
            self._publisher.withdraw(item)
        self._add(_failure(item, self._job.key, reason, passing=passing, attempts=self._attempts.pop(item.id)), outcome.worker)
        self._tally.failed[item.name] = reason

    def _add(self, entry: Entry, worker: str) -> None:
        try:
            self._manifest.add(entry | ({"worker": worker} if worker else {}))
        except OSError as error:
            raise full_disk(entry["case"], reason_of(error)) from error
        self._tally.ended()

    def _changed(self) -> None:
        self._tally.running, self._tally.waiting = len(self._running), len(self._later)
        self._watch(self._tally)


def _entry(item: Item, status: str, key: str, about: dict[str, Any], attempts: int) -> Entry:
    """Returns an item's entry for the manifest."""
    finished = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    head = {"case": item.name, "id": item.id, "status": status, "made_by": key}
    return head | about | {"attempts": attempts, "finished": finished}


def _failure(item: Item, key: str, reason: str, *, passing: bool, attempts: int) -> Entry:
    about = {"input": {"path": item.path, "stamp": item.stamp}, "reason": reason, "passing": passing}
    return _entry(item, "failed", key, about, attempts)


def _is_another(path: object, item: Item) -> bool:
    """Returns whether a path of the manifest is another CT than the item: both exist, and they are different."""
    if item.kind == "dicomweb" or not isinstance(path, str) or path == item.path:
        return False
    try:
        return not Path(path).samefile(item.path)
    except (OSError, ValueError):  # the CTs were moved
        return False


def full_disk(subject: str, reason: str) -> StorageError:
    """Returns the error that stops a batch because its disk cannot be written."""
    remedy = "Free some space or make the disk writable, and run the same command again."
    return StorageError(subject, f"cannot be stored: {reason}", remedy)
