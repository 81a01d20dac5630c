"""A job of the queue (`jobs`): what it does, for whom, how far it is, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from medsam2_atlas.base.errors import MedSAM2AtlasError, NotFoundError

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")


class CancelledError(MedSAM2AtlasError):
    """A job that was cancelled."""


class StoppingError(CancelledError):
    """The server stops, so it refuses a request or a job. retry_after: seconds after which a client may try again."""

    retry_after = 30

    def __init__(self) -> None:
        super().__init__("server", "is stopping.", f"Try again in {self.retry_after} s; look first at what has been saved.")


@dataclass
class Job:
    """A job.

    Attributes:
        id: unguessable, and the queue's own.
        owner: id of the person who asked; empty if nobody logs in.
        person: the name that others read.
        stage: what it does now.
        organs: share done of each organ that is under way, by number.
    """

    id: str
    kind: str
    subject: str
    owner: str
    person: str
    work: Callable[[], Any] = field(repr=False)
    soon: bool = False
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
    outcome: Future[Any] = field(default_factory=Future, repr=False)
    _stage_began: float = 0.0


def unknown_job(name: str) -> NotFoundError:
    """Returns the error for an id without a job, or with a job that the client must not know of."""
    return NotFoundError(repr(name[:80]), "is no job, or one of long ago.")
