"""Runs a batch to its end: submits cases, repeats attempts, publishes results, and keeps the manifest.

One thread does all of this, and it alone writes results and manifest. A case is done once its line is in the manifest. A
process that is killed before loses only cases without a line; they are done again, and equal outputs replace theirs.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

from medsam2_atlas.base.errors import InputError, StorageError
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.job import Job
from medsam2_atlas.batch.manifest import Entry, case_entry, failure_entry
from medsam2_atlas.batch.outcomes import Done, Outcome
from medsam2_atlas.batch.plan import Plan
from medsam2_atlas.batch.problems import is_away, is_disk_full, is_passing, reason_of
from medsam2_atlas.batch.publish import Publisher
from medsam2_atlas.batch.tally import Tally, Watch, unwatched

if TYPE_CHECKING:
    from medsam2_atlas.batch.engine import Engine

log = logging.getLogger(__name__)

_WAIT_SECONDS = 0.5


class Entries(Protocol):
    """Takes the entry of each case that has ended, as a manifest does."""

    def add(self, entry: Entry) -> None:
        """Keeps an entry; raises OSError if the disk is full."""
        ...


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
        if outcome.unusable:
            raise InputError(item.name, f"cannot be segmented: {outcome.reason}", "Run the same command again.")
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
        self._add(case_entry(item, "done", self._job.key, about, self._attempts.pop(item.id)), outcome)
        if outcome.done.kept:
            self._tally.kept += 1
        else:
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
        attempts = self._attempts.pop(item.id)
        self._add(failure_entry(item, self._job.key, reason, passing=passing, attempts=attempts), outcome)
        self._tally.failed[item.name] = reason

    def _add(self, entry: Entry, outcome: Outcome) -> None:
        who = {"worker": outcome.worker, "prepared_by": outcome.prepared_by}
        try:
            self._manifest.add(entry | {key: text for key, text in who.items() if text})
        except OSError as error:
            raise full_disk(entry["case"], reason_of(error)) from error
        self._tally.ended()

    def _changed(self) -> None:
        self._tally.running, self._tally.waiting = len(self._running), len(self._later)
        self._watch(self._tally)


def full_disk(subject: str, reason: str) -> StorageError:
    """Returns the error that stops a batch because its disk cannot be written."""
    remedy = "Free some space or make the disk writable, and run the same command again."
    return StorageError(subject, f"cannot be stored: {reason.rstrip('.')}.", remedy)
