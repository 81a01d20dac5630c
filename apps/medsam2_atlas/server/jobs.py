"""`/jobs`: lists, follows and cancels jobs, and returns their results.

The owner of a job, reviewers and admins can use it. For all other users it does not exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from medsam2_atlas.base.errors import ConflictError
from medsam2_atlas.base.jobs import ENDED, Job, JobQueue, unknown_job
from medsam2_atlas.base.json_text import to_json
from server.access import user_of
from server.attendance import attendance_of
from server.audit import note
from server.infer import Output, answer
from server.owners import may_use, own_jobs
from server.stopping import Stopping

router = APIRouter(prefix="/jobs", tags=["Jobs"])

_LOOK_SECONDS = 0.2
_ALIVE_SECONDS = 15.0


@router.get("", summary="Your recent jobs; for reviewers, the jobs of all users")
async def list_jobs(request: Request, mine: bool = False) -> list[dict[str, Any]]:
    """Returns the jobs in the order of their submission. `position` counts the jobs of other users, too.

    With `mine=true`, returns only your own jobs, and counts as following them: a viewer that is loading asks for them.
    """
    queue, user = _queue(request), user_of(request)
    if not mine:
        return [queue.describe(job) for job in queue.jobs() if may_use(user, job.owner)]
    found = own_jobs(queue, user)
    for job in found:
        attendance_of(request).asked(job)
    return [queue.describe(job) for job in found]


@router.get("/{name}", summary="The progress of a job")
async def show_job(request: Request, name: str) -> dict[str, Any]:
    """Returns state, position in the queue, stage, completed fraction of the stage and of each organ, seconds per stage."""
    job = _job(request, name)
    attendance_of(request).asked(job)
    return _queue(request).describe(job)


@router.delete("/{name}", summary="Cancel a job")
async def cancel_job(request: Request, name: str) -> dict[str, Any]:
    """Cancels and returns the job. A waiting job ends at once, a running job within a slice."""
    queue = _queue(request)
    return queue.describe(queue.cancel(_job(request, name).id))


@router.get("/{name}/events", summary="The progress of a job as server-sent events, until it ends")
async def follow_job(request: Request, name: str) -> Response:
    """Sends an event `job` for each change, with the same content as `GET /jobs/{id}`."""
    return StreamingResponse(
        _events(request, _queue(request), _job(request, name)),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


@router.get("/{name}/result", summary="The result of a job that is done")
async def job_result(request: Request, name: str, output: Output | None = None) -> Response:
    """Returns the same answer as `POST /infer/{model}`. Results are kept for ten minutes."""
    job = _job(request, name)
    note(request.scope, study=job.subject)
    if job.state not in ENDED:
        raise ConflictError(name, "is not done yet.", f"/jobs/{name} shows its progress.")
    return await run_in_threadpool(answer, job.outcome.result(), output, False)


async def _events(request: Request, queue: JobQueue, job: Job) -> AsyncIterator[str]:
    seen, silent = -1, 0.0
    stopping: Stopping = request.app.state.stopping
    with attendance_of(request).following(job):
        while not await request.is_disconnected():
            last = stopping.begun
            about = queue.describe(job)
            if about["revision"] != seen:
                seen, silent = about["revision"], 0.0
                yield f"event: job\ndata: {to_json(about)}\n\n"
                if about["state"] in ENDED:
                    return
            elif silent > _ALIVE_SECONDS:
                silent = 0.0
                yield ": still running\n\n"
            if last:
                return
            await asyncio.sleep(_LOOK_SECONDS)
            silent += _LOOK_SECONDS


def _job(request: Request, name: str) -> Job:
    """Returns a job of the user.

    Raises:
        NotFoundError: the job does not exist (any more), or belongs to another user.
    """
    job = _queue(request).job(name)
    if not may_use(user_of(request), job.owner):
        raise unknown_job(name)
    return job


def _queue(request: Request) -> JobQueue:
    queue: JobQueue = request.app.state.queue
    return queue
