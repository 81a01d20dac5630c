"""A job of the queue (`jobs`): its work, its owner, its progress and its outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from medsam2_atlas.base.errors import MedSAM2AtlasError, NotFoundError

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")


class CancelledError(MedSAM2AtlasError):
    """The error of a job that was cancelled."""


class StoppingError(CancelledError):
    """The error of a request or a job that is refused because the server is stopping.

    Attributes:
        retry_after: time in seconds after which a client may try again.
    """

    retry_after = 30

    def __init__(self) -> None:
        super().__init__("server", "is stopping.", f"Try again in {self.retry_after} s; check first what has been saved.")


@dataclass
class Job:
    """A job of the queue.

    Attributes:
        id: a random name that cannot be guessed.
        kind: what the job does, such as a model's name.
        subject: what it works on, such as a study.
        owner: id of the person who submitted it; empty if the server has no login.
        person: the person's name, as other people see it.
        work: the function that does the work.
        interactive: whether a person waits for the result while editing; it then goes before other jobs.
        attended: whether it belongs to a viewer: it is cancelled when its viewer has gone.
        options: what was asked for besides kind and subject, as JSON values, to submit the same job again.
        state: `queued`, `running`, or one of `ENDED`.
        stage: the current step of the work.
        share: the completed fraction of the stage, 0..1.
        organs: the completed fraction, 0..1, of each organ in progress, by organ number.
        seconds: duration of each stage, in seconds.
        submitted: time of submission, in seconds since 1970; likewise `started` and `ended`, which are None until then.
        revision: increases with every change of the job.
        cancelling: whether the job will stop at its next progress report.
        reason: why the job was cancelled, if nobody has asked for it; else empty.
        outcome: the future that gets the result or the error.
    """

    id: str
    kind: str
    subject: str
    owner: str
    person: str
    work: Callable[[], Any] = field(repr=False)
    interactive: bool = False
    attended: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    state: State = "queued"
    stage: str = ""
    share: float = 0.0
    organs: dict[int, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    submitted: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    revision: int = 0
    cancelling: bool = False
    reason: str = ""
    outcome: Future[Any] = field(default_factory=Future, repr=False)
    _stage_began: float = 0.0


def unknown_job(name: str) -> NotFoundError:
    """Returns the error for an id that has no job, or whose job the client may not see."""
    return NotFoundError(repr(name[:80]), "is not the id of a job, or the job ended long ago.", "Start it again.")
