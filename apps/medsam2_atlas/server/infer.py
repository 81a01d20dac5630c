"""`POST /infer/{model}`: runs a model in the job queue and answers in the formats that MONAI Label's viewers expect."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import FileResponse
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import get_mime_type
from requests_toolbelt import MultipartEncoder
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from datastores.pacs_datastore import PacsDatastore
from medsam2_atlas.base.errors import InputError, NotFoundError
from medsam2_atlas.base.jobs import Job, JobQueue
from medsam2_atlas.base.json_text import to_json
from medsam2_atlas.storage import suffix_of
from server import errors
from server.access import user_of
from server.answers import JsonAnswer
from server.attendance import attendance_of
from server.audit import note
from server.forms import LimitedRoute
from server.masks import discard, given_mask
from server.metrics import Metrics
from server.owners import owner_id
from server.parameters import infer_parameters
from server.paths import without_paths
from server.people import User
from server.sessions import session_of
from server.study_uids import by_uid
from server.uploads import json_object, received
from tasks.known import check_model, check_study
from tasks.replies import VIEWER_GRID
from tasks.requests import GivenMask

router = APIRouter(tags=["Infer"], route_class=LimitedRoute)

_LOOK_SECONDS = 0.5


class Output(str, Enum):
    """The format of an answer: the label map, the JSON, or both as parts of one message."""

    image = "image"
    json = "json"
    all = "all"


@router.post("/infer/{model}", summary="Run a model on a study, or on an uploaded image")
async def infer(
    request: Request,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    mask: Annotated[UploadFile | None, File()] = None,
    output: Output | None = None,
    wait: bool = True,
    attended: bool = False,
) -> Response:
    """Returns the result; with `wait=false`, returns the job at once (202).

    With `attended=true`, the job is cancelled if nobody follows it for `server_gone_seconds`; see `GET /jobs/{id}/events`.

    An interactive model can refine a mask: the file `mask` of the form (a label map on the grid of the image), or a stored
    version of the study's label map, which the params name by its tag (`mask`) and number (`mask_version`).
    """
    instance, user = app_instance(), user_of(request)
    check_model(model, instance._infers)
    task = instance._infers[model]
    options = await run_in_threadpool(infer_parameters, model, task, json_object(params))
    requested: dict[str, Any] = options | {"model": model, VIEWER_GRID: by_uid(request.scope)}
    queue: JobQueue = request.app.state.queue
    subject = image or (file.filename if file is not None and file.filename else "") or session_id
    if not image:
        note(request.scope, study=subject, details={"from": "upload" if file is not None else "session"})
    if mask is not None:
        if "mask" not in getattr(task, "inputs", ()):
            raise InputError(model, "refines no mask.", "Use the model medsam2, or leave the mask out.")
        if (mask.size or 0) > request.app.state.config.label_mb * 1_000_000:
            limit = request.app.state.config.label_mb
            return errors.respond(413, f"The mask is larger than {limit} MB.", "Send a compressed file, such as .nii.gz.")
    given: GivenMask | None = None
    upload = await run_in_threadpool(received, file, suffix_of(file.filename)) if file is not None and file.filename else None
    try:
        requested |= await run_in_threadpool(_input, instance, image, upload, session_id, user)
        given = await run_in_threadpool(_mask, instance, mask, options, requested)
        if given is not None:
            requested["given_mask"] = given
            if not given.uploaded:  # a stored label map is read, so the audit log names it
                note(request.scope, details={"mask": given.source})
        known = await run_in_threadpool(instance.stored, requested)
        if known is not None:
            return await run_in_threadpool(answer, known, output, True)
        again = {} if getattr(task, "inputs", ()) else options  # marks are many, and not for the list of jobs
        job = submitted(request, task, subject, requested, upload, given, attended=attended, options=again)
    except BaseException:  # also if the request is cancelled
        _remove(upload, given)
        raise
    if attended:
        attendance_of(request).begin(job)
    if not wait:
        return JsonAnswer(queue.describe(job), 202, headers={"Location": f"/jobs/{job.id}", "X-Job-ID": job.id})
    with attendance_of(request).following(job):
        result = await outcome(request, job)
    response = await run_in_threadpool(answer, result, output, True)
    response.headers["X-Job-ID"] = job.id
    return response


def submitted(
    request: Request,
    task: Any,
    subject: str,
    requested: dict[str, Any],
    upload: Path | None,
    given: GivenMask | None,
    *,
    attended: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Job:
    """Submits a run to the queue and returns its job. The job removes the files that came with the request when it ends.

    Args:
        request: the client's request.
        task: the infer task.
        subject: what the model runs on, for the list of jobs.
        requested: the request for the app, with the name of the model.
        upload: the file of an uploaded image; None for a study.
        given: the mask to refine; None if there is none.
        attended: whether a viewer has sent the request, so that the job is cancelled when the viewer has gone.
        options: the options of the model, for the list of jobs.

    Raises:
        QueueFullError: too many jobs wait. The caller then removes the files.
    """
    user, instance = user_of(request), app_instance()
    queue: JobQueue = request.app.state.queue
    job = queue.submit(
        requested["model"],
        subject,
        lambda: instance.infer(requested),
        owner=owner_id(user),
        person=user.name,
        interactive=bool(getattr(task, "inputs", ())),  # an annotator has drawn marks and is waiting
        attended=attended,
        options=options,
    )
    job.outcome.add_done_callback(lambda _: _ended(request.app.state.metrics, job, upload, given))
    return job


def answer(result: Mapping[str, Any], output: Output | None, once: bool) -> Response:
    """Returns a result in the format that MONAI Label's viewers expect.

    Args:
        result: the model's result: `file`, the label map, and `params`, the JSON.
        output: format of the answer; by default, label map and JSON.
        once: whether to remove the file when it has been sent.

    Raises:
        NotFoundError: the file has already been sent and removed.
    """
    file = Path(result["file"])
    if output is not Output.json and not file.exists():
        raise NotFoundError("result", "has already been fetched by the client that waited for it.", "Run the model again.")
    remove = BackgroundTask(file.unlink, missing_ok=True) if once else None
    if output is Output.json:
        return JsonAnswer(result["params"], background=remove)
    if output is Output.image:
        return FileResponse(file, media_type=get_mime_type(str(file)), filename=file.name, background=remove)
    with file.open("rb") as stream:
        fields = {
            "params": (None, without_paths(to_json(result["params"])), "application/json"),
            "image": (file.name, stream, get_mime_type(str(file))),
        }
        message = MultipartEncoder(fields=fields)
        return Response(message.to_string(), media_type=message.content_type, background=remove)


def dispose(result: Mapping[str, Any]) -> None:
    """Removes the file of a result that nobody fetched."""
    Path(result["file"]).unlink(missing_ok=True)


def _ended(metrics: Metrics, job: Job, upload: Path | None, mask: GivenMask | None) -> None:
    _remove(upload, mask)
    metrics.ended(job)


def _remove(upload: Path | None, mask: GivenMask | None) -> None:
    """Removes the files that came with a request."""
    if upload is not None:
        upload.unlink(missing_ok=True)
    discard(mask)


def _mask(instance: Any, part: UploadFile | None, options: Mapping[str, Any], requested: Mapping[str, Any]) -> GivenMask | None:
    """Returns the mask to refine. Its size is compared at once with a file's; a PACS' series is compared when it is read."""
    datastore, study = instance.datastore(), str(requested.get("image") or "")
    image = Path(requested["upload"]) if "upload" in requested else None
    if study and part is not None and not isinstance(datastore, PacsDatastore):
        image = Path(datastore.get_image_uri(study))
    return given_mask(part, options, study, image, datastore)


async def outcome(request: Request, job: Job) -> Mapping[str, Any]:
    """Returns the job's result. Cancels the job if the client has closed the connection."""
    queue: JobQueue = request.app.state.queue
    waiting = asyncio.wrap_future(job.outcome)
    while True:
        done, _ = await asyncio.wait({waiting}, timeout=_LOOK_SECONDS)
        if done:
            result: Mapping[str, Any] = waiting.result()
            return result
        if await request.is_disconnected():
            queue.cancel(job.id)


def _input(instance: Any, image: str, upload: Path | None, session_id: str, user: User) -> dict[str, str]:
    """Returns the input of a model, as part of the request to the app: an uploaded file, a session's image, or a study.

    Raises:
        InputError: the request contains none of them.
        NotFoundError: the study or session does not exist.
    """
    if upload is not None:
        return {"upload": str(upload)}
    if session_id:
        return {"upload": str(session_of(session_id, user).image)}
    if not image:
        raise InputError("image", "is missing.", "Name a study, upload a file, or name a session.")
    check_study(image, instance.datastore())
    return {"image": image}
