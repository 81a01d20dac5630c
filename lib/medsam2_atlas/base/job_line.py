"""The line of waiting jobs: whose turn is next, and how many may wait, so that no person keeps the others out.

The order is computed whenever the line changes, so a job's place in it is the place that is told:

- Jobs that somebody waits for with the mouse in the hand (`soon`) go first, but after eight of them in a row, one other job
  does.
- Within each kind, people take turns: the next job is the oldest one of the person whose last job began longest ago.
- A person may have only so many waiting jobs. The last quarter of the line is for people who have none.

Jobs without an owner (nobody logs in) are all of one person, without a limit of its own. Not safe for threads: the queue's lock
guards the line.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from medsam2_atlas.base.errors import LimitError

_SOON_IN_A_ROW = 8


class Waits(Protocol):
    """A job in the line. owner: id of the person. soon: whether it goes before those that are not."""

    owner: str
    soon: bool


JobT = TypeVar("JobT", bound=Waits)


class QueueFullError(LimitError):
    """No room for another job, or for another one of this person."""


class JobLine(Generic[JobT]):
    """Waiting jobs in the order of their turns."""

    def __init__(self, limit: int, per_person: int) -> None:
        """
        Args:
            limit: max number of waiting jobs.
            per_person: max number of waiting jobs of each person who has logged in.
        """
        self._limit, self._per_person = limit, per_person
        self._arrived: list[JobT] = []
        self._order: list[JobT] = []
        self._clock = itertools.count(1)
        self._served: dict[str, int] = {}  # when a person's last job began; people who are not in the line may be forgotten
        self._soon_in_a_row = 0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[JobT]:
        return iter(self._order)

    def place(self, job: JobT) -> int:
        """Returns how many waiting jobs go before a waiting job."""
        return next(n for n, other in enumerate(self._order) if other is job)

    def check(self, owner: str, retry_after: int) -> None:
        """Raises an error if a person may not add another job.

        Args:
            owner: id of the person; empty if nobody logs in.
            retry_after: seconds after which there may be room.

        Raises:
            QueueFullError: the line is full, or too many of its jobs are the person's.
        """
        total, own = len(self._order), sum(job.owner == owner for job in self._order)
        remedy = f"Try again in {retry_after} s."
        if total >= self._limit:
            raise QueueFullError("queue", f"is full: {total} jobs wait.", remedy, retry_after)
        if owner and own >= self._per_person:
            raise QueueFullError(
                "queue", f"holds {own} of your jobs already, the most for one person.", f"Cancel one, or {remedy}", retry_after
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
        self._soon_in_a_row = self._soon_in_a_row + 1 if job.soon else 0
        self._served[job.owner] = next(self._clock)
        self.remove(job)
        if len(self._served) > 10 * self._limit:
            here = {other.owner for other in self._arrived}
            self._served = {owner: when for owner, when in self._served.items() if owner in here}
        return job

    def _arrange(self) -> None:
        self._order = _turns(self._arrived, self._served, self._soon_in_a_row)


def _turns(arrived: Sequence[JobT], served: dict[str, int], soon_in_a_row: int) -> list[JobT]:
    """Returns jobs in the order of their turns, if no other job arrives.

    Args:
        arrived: the jobs in the order of their arrival.
        served: when each person's last job began; a larger number is later.
        soon_in_a_row: how many of the last jobs were `soon`.
    """
    left = {soon: [job for job in arrived if job.soon is soon] for soon in (True, False)}
    served, last, order = dict(served), max(served.values(), default=0), []
    while left[True] or left[False]:
        soon = bool(left[True]) and not (left[False] and soon_in_a_row >= _SOON_IN_A_ROW)
        job = min(left[soon], key=lambda waiting: served.get(waiting.owner, 0))  # the oldest one of equals
        left[soon] = [other for other in left[soon] if other is not job]
        soon_in_a_row = soon_in_a_row + 1 if soon else 0
        last += 1
        served[job.owner] = last
        order.append(job)
    return order
