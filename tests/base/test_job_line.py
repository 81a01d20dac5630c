"""The line of waiting jobs: people take turns, and nobody can fill it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from medsam2_atlas.base.job_line import JobLine, QueueFullError


@dataclass
class Waiting:
    owner: str
    name: str
    interactive: bool = False


def line_of(*jobs: Waiting, limit: int = 16, per_person: int = 4) -> JobLine[Waiting]:
    line = JobLine[Waiting](limit, per_person)
    for job in jobs:
        line.check(job.owner, 1)
        line.add(job)
    return line


def names(line: JobLine[Waiting]) -> list[str]:
    return [job.name for job in line]


def test_a_person_does_not_wait_behind_all_jobs_of_another_person() -> None:
    line = line_of(*(Waiting("a", f"a{n}") for n in range(4)), Waiting("b", "b0"), Waiting("c", "c0"), Waiting("b", "b1"))
    assert names(line) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_reported_places_follow_the_order_of_the_turns() -> None:
    jobs = [Waiting(owner, f"{owner}{n}", interactive=(n == 1)) for n in range(3) for owner in "abc"]
    line = line_of(*jobs)
    reported = names(line)
    assert [line.place(job) for job in line] == list(range(9))
    assert [line.take().name for _ in range(9)] == reported


def test_a_person_whose_job_just_began_goes_behind_the_others() -> None:
    line = line_of(Waiting("a", "a0"), Waiting("a", "a1"))
    assert line.take().name == "a0"
    line.add(Waiting("b", "b0"))
    assert names(line) == ["b0", "a1"]


def test_interactive_jobs_go_first_but_not_forever() -> None:
    long = Waiting("b", "long")
    line = line_of(long)
    for n in range(12):  # a script that sends one request after another
        line.add(Waiting("a", f"interactive{n}", interactive=True))
        if line.take() is long:
            break
    assert n == 8


def test_a_person_cannot_fill_the_line() -> None:
    line = line_of(*(Waiting("a", f"a{n}") for n in range(4)))
    with pytest.raises(QueueFullError, match="4 of your jobs"):
        line.check("a", 7)
    line.check("b", 7)


def test_a_few_people_together_cannot_fill_the_line() -> None:
    line = line_of(*(Waiting(owner, f"{owner}{n}") for n in range(4) for owner in "abc"))
    assert len(line) == 12
    line.add(Waiting("d", "d0"))
    with pytest.raises(QueueFullError, match="last places"):
        line.check("d", 1)
    for owner in "efg":
        line.check(owner, 1)
        line.add(Waiting(owner, owner))
    with pytest.raises(QueueFullError, match="16 jobs wait") as caught:
        line.check("h", 5)
    assert caught.value.retry_after == 5


def test_without_a_login_jobs_wait_in_the_order_of_their_arrival() -> None:
    line = line_of(*(Waiting("", str(n)) for n in range(16)))
    assert names(line) == [str(n) for n in range(16)]


def test_a_cancelled_job_gives_up_its_place() -> None:
    first, second = Waiting("a", "a0"), Waiting("a", "a0")  # equal, but different objects
    line = line_of(first, second)
    line.remove(first)
    assert [job is second for job in line] == [True]
