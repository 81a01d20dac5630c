"""The answers of `/worklist`, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

State = Literal["new", "predicted", "in work", "waits for review", "returned", "signed off", "problem"]
Sort = Literal["priority", "patient", "date", "state", "confidence", "disagreement", "time", "author"]


class Claimed(BaseModel):
    """Who works on a case."""

    person: str = Field(description="name; empty on a server without logins")
    since: str = Field(description="ISO 8601, UTC")


class Comment(BaseModel):
    """With what a reviewer returned a case."""

    by: str
    time: str
    text: str


class CaseRow(BaseModel):
    """A case of the worklist. Texts of patients, studies and people come from outside: show them as text only."""

    study: str = Field(description="name of the case: the id in other routes")
    patient: str = Field(description="name and id of the patient; the name of the study if they are unknown")
    date: str = Field(description="date of the study, YYYY-MM-DD; empty if it is unknown")
    description: str
    state: State
    models: list[str] = Field(description="models with a stored prediction")
    model: str | None = Field(description="the first of them")
    author: str = Field(description="author of the final label map; empty if there is none")
    time: str = Field(description="when it was saved, or else the prediction; ISO 8601, UTC")
    version: int = Field(description="number of the final version; 0 if there is none")
    accepted: str = Field(description="reviewer who accepted it; empty if nobody did")
    confidence: float | None = Field(description="mean confidence of the organs, 0..1")
    disagreement: float | None
    uncertainty: float | None
    novelty: float | None
    check: list[tuple[str, float]] = Field(description="organs with a confidence below 0.5, the lowest first")
    checks: int = Field(description="number of these organs")
    look_first: list[tuple[str, float]] = Field(description="three organs with the lowest confidence")
    problem: str
    why: str
    assigned: str = Field(description="name of the person that it is assigned to; empty if it is not")
    claimed: Claimed | None
    mine: bool = Field(description="whether it is assigned to, claimed by, or has unsaved work of, the person who asks")
    opened: list[str] = Field(description="names of the people who have it open")
    comment: Comment | None
    viewer: str = Field(description="path below the server's root path; empty if no viewer can show it")
    tag: str = Field(description="tag of the label map in its picture; empty if the picture shows the CT alone")
    action: Literal["segment", "correct", "review", "view", "fix"]


class CasePage(BaseModel):
    """A page of the worklist."""

    total: int = Field(description="number of cases that match")
    page: int
    pages: int
    size: int
    counts: dict[State, int] = Field(description="number of all cases by state")
    people: list[str] = Field(description="authors, assignees and claimers of all cases")
    models: list[str]
    organs: list[str] = Field(description="organs that have to be checked in at least one case")
    rows: list[CaseRow]


class ModelSummary(BaseModel):
    """A model."""

    name: str
    title: str
    version: str = Field(description="empty if it cannot run")
    mark: str = Field(description="mark of its weights, such as that they are demo weights; empty if there is none")
    missing: str = Field(description="why it cannot run; empty if it can")
    stored: bool = Field(description="whether its predictions are stored; false for models that need marks")


class Queue(BaseModel):
    """The queue of jobs."""

    running: int
    waiting: int
    yours: list[dict[str, Any]] = Field(
        description="the person's own jobs, as `GET /jobs` describes them, with the `title` of the case, and whether it is a "
        "study of the worklist (`listed`) and not, for example, an uploaded file"
    )


class You(BaseModel):
    """The person who asks."""

    name: str
    role: Literal["annotator", "reviewer", "admin"]


class May(BaseModel):
    """What the person may do."""

    upload: bool
    assign: bool
    review: bool
    batch: bool = Field(description="whether the person may run a model on many cases")


class Batch(BaseModel):
    """The run of a model on many cases."""

    running: bool
    state: dict[str, Any] | None = Field(description="see `GET /batch/infer/progress`; null before the first run")


class Learning(BaseModel):
    """The background measurement of cases."""

    on: bool
    done: int = Field(description="cases with current measures")
    of: int = Field(description="cases to measure")


class Summary(BaseModel):
    """The state of the whole set of studies."""

    total: int
    counts: dict[State, int]
    today: int = Field(description="cases that became `signed off` today, in the server's time zone")
    week: int = Field(description="the same in the last seven days")
    demo_weights: bool
    review: bool = Field(description="whether the review stage is on")
    models: list[ModelSummary]
    queue: Queue
    you: You
    users: list[str] = Field(description="names of all users of the token file, for those who may assign cases; else empty")
    may: May
    pacs: bool
    pacs_problem: str = Field(
        description="why the list of the PACS is missing or may be out of date, as a sentence; empty if it is current"
    )
    learning: Learning
    batch: Batch
