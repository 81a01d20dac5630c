"""Routes with three safeguards: limits for forms, no NaN in JSON, and a check that a file is readable before it is sent.

Starlette allows 1000 fields and 1000 files of 1 MB each in memory: one request could take 2 GB. These routes limit the fields
and write files to disk. Each file uses a file descriptor until its request ends, so a route accepts only as many files as it
needs. The login is open to everybody and accepts none.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from json import JSONDecodeError
from pathlib import Path
from typing import Any, get_origin

from fastapi import params
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from medsam2_atlas.base.json_text import from_json

MAX_FILES = 4000  # the slices of a series
MAX_FIELDS = 8  # handlers read three at most
_FIELD_BYTES = 2_000_000
_MEMORY_BYTES = 16 * 1024
"""Max bytes of each file in memory. Larger files go to an unnamed file, which the system removes when the process ends."""

MultiPartParser.spool_max_size = _MEMORY_BYTES


class LimitedRequest(Request):
    """A request with a limited form and strict JSON (no NaN or infinity)."""

    max_files = MAX_FILES
    """Max number of files in the form."""

    async def json(self) -> Any:
        """Returns the content of the JSON body.

        Raises:
            JSONDecodeError: the body is not JSON, or contains NaN or infinity.
        """
        if not hasattr(self, "_json"):
            body = await self.body()
            try:
                self._json = from_json(body)
            except JSONDecodeError:
                raise
            except ValueError as error:  # FastAPI answers 422 to JSONDecodeError only
                raise JSONDecodeError(str(error), "", 0) from error
        return self._json

    async def _get_form(self, **limits: Any) -> FormData:
        try:
            return await super()._get_form(max_files=self.max_files, max_fields=MAX_FIELDS, max_part_size=_FIELD_BYTES)
        except HTTPException as error:
            problem = str(error.detail)
            raise HTTPException(413 if "maximum" in problem.lower() else 422, problem) from error


class LimitedRoute(APIRoute):
    """A route that limits forms and answers with an error if the file to send cannot be read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the handler, which receives a `LimitedRequest`."""
        handle, max_files = super().get_route_handler(), self._max_files()

        async def limited(request: Request) -> Response:
            limited_request = LimitedRequest(request.scope, request.receive, request._send)
            limited_request.max_files = max_files
            response = await handle(limited_request)
            if isinstance(response, FileResponse):
                await run_in_threadpool(_open, Path(response.path))
            return response

        return limited

    def _max_files(self) -> int:
        """Returns the max number of files that the handler accepts."""
        files = (field.field_info for field in self.dependant.body_params if isinstance(field.field_info, params.File))
        return sum(MAX_FILES if get_origin(file.annotation) is list else 1 for file in files)


def _open(file: Path) -> None:
    """Raises the error of an unreadable file now; after the head of the answer it would be too late to report it."""
    with file.open("rb"):
        pass
