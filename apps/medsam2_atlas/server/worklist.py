"""`/worklist`: the cases of the team in pages, the state of the whole, and small pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from medsam2_atlas.base.jobs import ENDED, JobQueue
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.imaging.thumbnail import empty_picture
from server.access import role_for, user_of
from server.answers import JsonAnswer
from server.attendance import page_open
from server.forms import LimitedRoute
from server.headers import CACHED
from server.in_turn import in_turn_if_awaited
from server.owners import own_jobs
from server.people import User
from server.work import batch_progress
from server.worklist_answers import CasePage, Sort, State, Summary
from tasks import worklist

router = APIRouter(prefix="/worklist", tags=["Worklist"], route_class=LimitedRoute)

_PICTURES, _PACS_PICTURES = "pictures", "pictures of the PACS"
_MAX_NAME = 300
_MAX_PAGE, _MAX_SIZE = 1_000_000, 200
_ENDED_JOBS = 10
"""Number of a person's jobs that have ended which the summary contains besides those that have not."""
_ENDED_SECONDS = 600.0
"""Time for which it contains them."""
_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}, "description": "The picture."}}


@router.get("/cases", summary="A page of cases, and the counts of all", response_model=CasePage)
def cases(
    request: Request,
    state: Annotated[list[State], Query(description="only cases in one of these states; all by default")] = [],  # noqa: B006
    person: Annotated[str, Query(max_length=_MAX_NAME, description="only cases of this author, assignee or claimer")] = "",
    organ: Annotated[str, Query(max_length=_MAX_NAME, description="only cases in which this organ has to be checked")] = "",
    model: Annotated[str, Query(max_length=_MAX_NAME, description="only cases with a prediction of this model")] = "",
    q: Annotated[str, Query(max_length=_MAX_NAME, description="words in patient, description, date or name of the case")] = "",
    sort: Annotated[Sort, Query(description="cases without the value come last")] = "priority",
    down: Annotated[bool, Query(description="descending order; `priority` has one order only")] = False,
    page: Annotated[int, Query(ge=1, le=_MAX_PAGE, description="a page after the last one becomes the last one")] = 1,
    size: Annotated[int, Query(ge=1, le=_MAX_SIZE)] = 50,
) -> Response:
    """Returns the cases of a page as the person sees them, and counts and names of all cases.

    By `priority`, cases that were returned to the person come first, then those with unsaved work of the person, then those
    that the person has claimed or was assigned. Then for reviewers those that wait for a review, then those with a problem.
    Then free cases by descending disagreement, then those of others, then those that are done.
    """
    query = worklist.Query(frozenset(state), person, organ, model, q, sort, down, page, size)
    return JsonAnswer(app_instance().worklist.cases.page(query, user_of(request)))


@router.get(
    "/summary",
    summary="Counts, models, the queue, and what the person may do",
    response_model=Summary,
    dependencies=[Depends(page_open)],
)
def summary(request: Request) -> Response:
    """Returns the state of the whole. It reads no CT and does not wait for models: `models` is empty while they are loaded.

    A page that asks for it shows the person's jobs, so this counts as following them for a minute.
    """
    instance, user = app_instance(), user_of(request)
    parts, pacs = instance.worklist, is_url(settings.MONAI_LABEL_STUDIES)
    models = parts.models.get()
    found = parts.cases.counts(user) | {
        "demo_weights": any(model["mark"] for model in models if model["name"] == "medsam2"),
        "review": instance.datastore().store.review.on,
        "models": models,
        "queue": _queue(request.app.state.queue, user, parts.titles),
        "you": {"name": user.name, "role": user.role},
        "users": request.app.state.access.names() if user.may("reviewer") else [],
        "may": {
            "upload": not pacs and user.may(role_for("PUT", "/datastore/upload")),
            "assign": user.may("reviewer"),
            "review": user.may(role_for("POST", "/datastore/label/accept")),
            "batch": user.may(role_for("POST", "/batch/infer/atlas")),
        },
        "pacs": pacs,
        "pacs_problem": parts.pacs_problem(),
        "learning": parts.learning(),
        "batch": batch_progress(),
    }
    return JsonAnswer(found)


@router.get("/picture", summary="A small picture of a case", responses=_PNG, response_class=Response)
async def picture(request: Request, study: str) -> Response:
    """Returns a PNG file of at most 320 x 320 pixels: a slice of the CT with the case's final label map, or else a model's.

    If there is no picture, the answer is an empty grey one. A browser may keep a picture for itself, but has to ask each time
    whether it still applies (`If-None-Match`).
    """
    pictures = app_instance().worklist.pictures
    wanted = await run_in_threadpool(pictures.find, study)
    kept = {"ETag": f'"{wanted.mark}"', "Cache-Control": CACHED[1]}
    if wanted.file is not None and kept["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=kept)
    file = wanted.file
    if file is None:  # the PACS may be slow, and must not delay the pictures of cases that are on this server
        queue = _PICTURES if wanted.image is not None else _PACS_PICTURES
        file = await in_turn_if_awaited(request, lambda: pictures.draw(wanted), queue)
    if file is None:
        return Response(empty_picture(), media_type="image/png")
    return FileResponse(file, media_type="image/png", headers=kept)


def _queue(queue: JobQueue, user: User, titles: Callable[[], Mapping[str, str]]) -> dict[str, object]:
    """Returns the counts of the queue, and the person's own jobs. Other people's jobs stay hidden, even from reviewers.

    Args:
        queue: the jobs of all people.
        user: the person who asks.
        titles: returns the titles of all listed cases; called only if the person has jobs.
    """
    own = own_jobs(queue, user)
    since = time.time() - _ENDED_SECONDS
    ended = [job for job in own if job.state in ENDED and (job.ended or 0) > since][-_ENDED_JOBS:]
    shown = {job.id for job in ended} | {job.id for job in own if job.state not in ENDED}
    known = titles() if shown else {}
    yours = [
        queue.describe(job) | {"title": known.get(job.subject, job.subject), "listed": job.subject in known}
        for job in own
        if job.id in shown
    ]
    return {**queue.counts(), "yours": yours}
