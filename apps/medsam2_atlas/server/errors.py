"""Turns every error into JSON with a matching HTTP status and the request id, which also appears in the log."""

from __future__ import annotations

import errno
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelError, MONAILabelException
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from medsam2_atlas.base.errors import (
    AccessError,
    AtlasError,
    ClaimedError,
    ConfirmError,
    ConflictError,
    InputError,
    LimitError,
    MalformedError,
    MedSAM2AtlasError,
    NotFoundError,
    StorageError,
    UnavailableError,
    WeightsError,
)
from medsam2_atlas.base.jobs import CancelledError, StoppingError
from server.answers import JsonAnswer
from server.context import request_id
from server.paths import without_paths

log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[MedSAM2AtlasError], int], ...] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (StoppingError, 503),
    (CancelledError, 409),
    (AccessError, 403),
    (LimitError, 429),
    (MalformedError, 400),
    (InputError, 422),
    (AtlasError, 409),  # the server's state does not allow the request: an atlas or weights are missing
    (WeightsError, 409),
    (UnavailableError, 503),
    (StorageError, 500),
)
_NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "the disk is read-only"}
_UNREADABLE = frozenset(
    (errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ESTALE)
)
_SCRATCH = re.compile(r"[^\s:']*\bmedsam2_atlas-[0-9a-f]+_[0-9a-f]+_[0-9a-f]+-[^\s:']*")
"""Names of uploaded files on the server's disk. Clients do not need them."""
_SQLITE_NO_ROOM = {"database or disk is full": "the disk is full", "readonly database": "the disk is read-only"}


def body(status: int, message: str, remedy: str = "", kind: str = "", **more: Any) -> dict[str, Any]:
    """Returns the JSON content of an error. Clients of FastAPI read its field `detail`.

    Args:
        status: HTTP status.
        message: the problem, as a sentence.
        remedy: what the user can do.
        kind: kind of error; by default, the phrase of the status.
        more: additional fields for clients.
    """
    reason = kind or HTTPStatus(status).phrase
    message, remedy = (without_paths(_SCRATCH.sub("the upload", text)) for text in (message, remedy))
    error = {"status": status, "kind": reason, "message": message, "remedy": remedy, "request_id": request_id(), **more}
    return {"detail": message, "error": error}


def respond(
    status: int, message: str, remedy: str = "", kind: str = "", headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """Returns an error as a response; see `body` for the other arguments.

    Args:
        status: HTTP status.
        message: the problem, as a sentence.
        remedy: what the user can do.
        kind: kind of error; by default, the phrase of the status.
        headers: additional headers.
        more: additional fields for clients.
    """
    return JsonAnswer(body(status, message, remedy, kind, **more), status_code=status, headers=headers)


def status_of(error: MedSAM2AtlasError) -> int:
    """Returns the HTTP status of one of the project's errors.

    >>> status_of(NotFoundError("study", "is unknown.")), status_of(LimitError("queue", "is full.", "Try again later."))
    (404, 429)
    """
    if isinstance(error, StorageError) and not isinstance(error, ConflictError) and no_room(error):
        return 507
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def no_room(error: BaseException) -> str:
    """Returns why the server could not write to its disk.

    Args:
        error: an exception. Its causes are searched, too, because libraries wrap the operating system's error.

    Returns:
        "the disk is full", "the disk quota is used up" or "the disk is read-only"; empty if the exception has another cause.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return _NO_ROOM[cause.errno]
        if isinstance(cause, sqlite3.OperationalError):
            text = str(cause)
            reason = next((reason for part, reason in _SQLITE_NO_ROOM.items() if part in text), "")
            if reason:
                return reason
    return ""


def from_error(error: Exception) -> Response:
    """Turns any exception into a response. Unexpected exceptions are logged with their traceback."""
    if isinstance(error, MedSAM2AtlasError):
        status = status_of(error)
        log.log(logging.ERROR if status >= 500 else logging.INFO, "%s", error)
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, (LimitError, StoppingError)) else None
        return respond(status, f"{error.subject}: {error.problem}", error.remedy, type(error).__name__, headers, **_more(error))
    reason = no_room(error)
    if reason:
        log.error("%s: %s", reason, error)
        return respond(507, f"The server could not write ({reason}).", "Free some space on the server, or tell an admin.")
    if isinstance(error, OSError) and error.errno in _UNREADABLE and error.filename:
        log.error("a file cannot be used", exc_info=error)
        status = 404 if error.errno == errno.ENOENT else 409
        problem = f"{Path(os.fsdecode(error.filename)).name} cannot be used ({error.strerror})."
        return respond(status, problem, "Tell an admin: the file may be damaged or moved, or the server may not read it.")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        log.error("too many files are open", exc_info=error)
        return respond(503, "The server has too many files open.", "Try again in a minute.", headers={"Retry-After": "60"})
    if isinstance(error, (ImageNotFoundException, LabelNotFoundException)):
        return respond(404, error.msg)
    if isinstance(error, MONAILabelException):
        status = 422 if error.error in (MONAILabelError.INVALID_INPUT, MONAILabelError.APP_INIT_ERROR) else 500
        return respond(status, error.msg)
    if isinstance(error, ClientDisconnect):  # nobody reads the answer
        return respond(400, "The client closed the connection before the request was complete.")
    if isinstance(error, StarletteHTTPException):
        return respond(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    log.error("unexpected error", exc_info=error)
    return respond(500, "Something went wrong on the server.", "The server's log has details under this request id.")


def _more(error: MedSAM2AtlasError) -> dict[str, Any]:
    """Returns the reason for a refused change. For `confirm`, the client can send the change again; not for `conflict`."""
    if isinstance(error, ConfirmError):
        return {"reason": "confirm", "organs": list(error.organs)}
    if isinstance(error, ClaimedError):
        return {"reason": "conflict", "claimed": error.claimed}
    return {"reason": "conflict"} if isinstance(error, ConflictError) else {}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception, its cause, the cause of that, and so on."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def install(app: FastAPI) -> None:
    """Registers the handlers that turn all errors of an application into responses."""

    async def answer(request: Request, error: Exception) -> Response:
        return from_error(error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        problems = "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors())
        return respond(422, f"The request is not valid. {problems}", "/openapi.json lists the parameters of this route.")

    app.add_exception_handler(RequestValidationError, invalid)
    for kind in (MedSAM2AtlasError, MONAILabelException, StarletteHTTPException, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
