"""The line of waiting jobs: the order of their turns, and limits that stop one person from filling the line.

The order is computed whenever the line changes, so the reported place of a job is its true place:

- Interactive jobs go first: a person waits for them while editing. After eight of them in a row, one other job runs.
- Within each kind, people take turns: the next job is the oldest job of the person whose last job began longest ago.
- The number of waiting jobs per person is limited. The last quarter of the line is for people without a waiting job.

If the server has no login, jobs have no owner: they all count as one person's, without a limit per person. The line is not safe
for threads; the queue's lock protects it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from medsam2_atlas.base.errors import LimitError

_INTERACTIVE_IN_A_ROW = 8


class WaitingJob(Protocol):
    """A job in the line.

    Attributes:
        owner: id of the person who submitted it.
        interactive: whether it goes before jobs that are not interactive.
    """

    owner: str
    interactive: bool


JobT = TypeVar("JobT", bound=WaitingJob)


class QueueFullError(LimitError):
    """The error of a job that is not accepted, because the line is full or contains too many jobs of its owner."""


class JobLine(Generic[JobT]):
    """Waiting jobs in the order of their turns."""

    def __init__(self, limit: int, per_person: int) -> None:
        """Creates an empty line.

        Args:
            limit: max number of waiting jobs.
            per_person: max number of waiting jobs of each person who has logged in.
        """
        self._limit, self._per_person = limit, per_person
        self._arrived: list[JobT] = []
        self._order: list[JobT] = []
        self._clock = itertools.count(1)
        self._served: dict[str, int] = {}  # when each person's last job began; people without waiting jobs may be dropped
        self._interactive_in_a_row = 0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[JobT]:
        return iter(self._order)

    def place(self, job: JobT) -> int:
        """Returns the number of jobs that go before a waiting job."""
        return next(n for n, other in enumerate(self._order) if other is job)

    def check(self, owner: str, retry_after: int) -> None:
        """Raises an error if a person may not add another job.

        Args:
            owner: id of the person; empty if the server has no login.
            retry_after: time in seconds after which there may be room.

        Raises:
            QueueFullError: the line is full, or too many of its jobs belong to the person.
        """
        total, own = len(self._order), sum(job.owner == owner for job in self._order)
        remedy = f"Try again in {retry_after} s."
        if total >= self._limit:
            raise QueueFullError("queue", f"is full: {total} jobs wait.", remedy, retry_after)
        if owner and own >= self._per_person:
            raise QueueFullError(
                "queue", f"contains {own} of your jobs already, the maximum.", f"Cancel one, or {remedy.lower()}", retry_after
            )
        if owner and own and total >= self._limit - self._limit // 4:
            raise QueueFullError(
                "queue",
                f"is almost full: {total} jobs wait. Its last places are for people without a job.",
                remedy,
                retry_after,
            )

    def add(self, job: JobT) -> None:
        """Adds a job."""
        self._arrived.append(job)
        self._arrange()

    def remove(self, job: JobT) -> None:
        """Removes a waiting job."""
        self._arrived = [other for other in self._arrived if other is not job]
        self._arrange()

    def take(self) -> JobT:
        """Removes and returns the job whose turn is next."""
        job = self._order[0]
        self._interactive_in_a_row = self._interactive_in_a_row + 1 if job.interactive else 0
        self._served[job.owner] = next(self._clock)
        self.remove(job)
        if len(self._served) > 10 * self._limit:
            waiting = {other.owner for other in self._arrived}
            self._served = {owner: when for owner, when in self._served.items() if owner in waiting}
        return job

    def _arrange(self) -> None:
        self._order = _turns(self._arrived, self._served, self._interactive_in_a_row)


def _turns(arrived: Sequence[JobT], served: dict[str, int], interactive_in_a_row: int) -> list[JobT]:
    """Returns jobs in the order of their turns, if no other job arrives.

    Args:
        arrived: the jobs in the order of their arrival.
        served: when each person's last job began; a larger number is later.
        interactive_in_a_row: how many interactive jobs in a row ran last.
    """
    left = {kind: [job for job in arrived if job.interactive is kind] for kind in (True, False)}
    served, last, order = dict(served), max(served.values(), default=0), []
    while left[True] or left[False]:
        kind = bool(left[True]) and not (left[False] and interactive_in_a_row >= _INTERACTIVE_IN_A_ROW)
        job = min(left[kind], key=lambda waiting: served.get(waiting.owner, 0))  # of equals, `min` returns the oldest
        left[kind] = [other for other in left[kind] if other is not job]
        interactive_in_a_row = interactive_in_a_row + 1 if kind else 0
        last += 1
        served[job.owner] = last
        order.append(job)
    return order
