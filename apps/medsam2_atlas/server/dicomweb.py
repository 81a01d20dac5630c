"""The DICOMweb server behind this one, for viewers: look-ups pass through, segmentations come in as labels.

OHIF stores a segmentation by STOW. Here it is checked, becomes the next version of the series' `final` label, and is sent
on as this server writes it; other objects are not taken. Of a label's versions viewers are shown the newest.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Annotated, Any

import httpx
import pydicom
from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from pydicom.errors import InvalidDicomError
from requests_toolbelt.multipart.decoder import (
    ImproperBodyPartContentException,
    MultipartDecoder,
    NonMultipartContentTypeException,
)
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from medsam2_atlas.errors import ConflictError, InputError, StorageError
from pacs_datastore import PacsDatastore
from server.access import user_of

router = APIRouter(prefix="/proxy/dicom", tags=["DICOMweb"])

_PATH = re.compile(r"(studies|series|instances)(/[A-Za-z0-9.,;=_-]+)*/?")
_PASSED = ("accept", "accept-language", "if-none-match", "range")
_RETURNED = ("content-type", "etag", "content-range", "warning")
_OPERATIONS = ("wado", "qido", "stow")
_MODALITY, _SERIES, _NUMBER = "00080060", "0020000E", "00200013"


@router.get("/{path:path}", include_in_schema=False)
async def look_up(request: Request, path: str) -> Response:
    """What the DICOMweb server answers."""
    operation, rest = _split(path)
    upstream = _client(request).build_request(
        "GET",
        _url(operation, rest),
        params=list(request.query_params.multi_items()),
        headers={name: request.headers[name] for name in _PASSED if name in request.headers},
    )
    try:
        answer = await _client(request).send(upstream, stream=True)
    except httpx.HTTPError as error:
        raise StorageError("PACS", f"cannot be asked ({error}).", "Is it running?") from error
    headers = {name: answer.headers[name] for name in _RETURNED if name in answer.headers}
    if "json" in answer.headers.get("content-type", "") and rest.rstrip("/").endswith(("metadata", "instances")):
        content = await answer.aread()
        await answer.aclose()
        if answer.status_code != 200 or not content:
            return Response(content, answer.status_code, headers)
        return JSONResponse(newest_segmentations(answer.json()), 200, media_type=headers.get("content-type"))
    return StreamingResponse(answer.aiter_bytes(), answer.status_code, headers, background=BackgroundTask(answer.aclose))


@router.post("/{path:path}", include_in_schema=False)
async def store(request: Request, path: str, content_type: Annotated[str, Header()] = "") -> Response:
    """Takes DICOM segmentations in as labels; answers as STOW does."""
    _, rest = _split(path)
    if not re.fullmatch(r"studies(/[0-9.]+)?/?", rest):
        raise InputError(path[:80], "takes no objects.", "POST them to …/studies.")
    body = await request.body()
    return JSONResponse(
        await run_in_threadpool(_take_in, body, content_type, user_of(request).name), media_type="application/dicom+json"
    )


def newest_segmentations(instances: Any) -> Any:
    """A list of instances in DICOM JSON, of each segmentation series only the one with the highest number."""
    if not isinstance(instances, list):
        return instances
    newest: dict[str, int] = {}
    for item in instances:
        if _value(item, _MODALITY) == "SEG":
            series = str(_value(item, _SERIES))
            newest[series] = max(newest.get(series, -1), int(_value(item, _NUMBER) or 0))
    return [
        item
        for item in instances
        if _value(item, _MODALITY) != "SEG" or int(_value(item, _NUMBER) or 0) == newest[str(_value(item, _SERIES))]
    ]


def _take_in(body: bytes, content_type: str, author: str) -> dict[str, Any]:
    datastore = app_instance().datastore()
    if not isinstance(datastore, PacsDatastore):
        raise ConflictError("studies", "of this server lie in a folder.", "Save labels by PUT /datastore/label.")
    references = []
    for part in _parts(body, content_type):
        try:
            seg = pydicom.dcmread(BytesIO(part), force=False)
        except (InvalidDicomError, EOFError) as error:
            raise InputError("object", f"is no DICOM file ({error}).") from error
        saved = datastore.save_seg(seg, author)
        app_instance().on_save_label(saved.label.study, saved.label.study)
        references.append(
            {
                "00081150": {"vr": "UI", "Value": [str(seg.SOPClassUID)]},
                "00081155": {"vr": "UI", "Value": [str(seg.SOPInstanceUID)]},
                "00081190": {"vr": "UR", "Value": [f"/datastore/label?label={saved.label.study}&tag={saved.label.tag}"]},
            }
        )
    if not references:
        raise InputError("request", "holds no DICOM objects.", "Send multipart/related; type=application/dicom.")
    return {"00081199": {"vr": "SQ", "Value": references}}


def _parts(body: bytes, content_type: str) -> list[bytes]:
    """The objects of a multipart message."""
    try:
        return [part.content for part in MultipartDecoder(body, content_type).parts]
    except (NonMultipartContentTypeException, ImproperBodyPartContentException, AttributeError) as error:
        raise InputError("request", "is no multipart message.", "Send multipart/related; type=application/dicom.") from error


def _split(path: str) -> tuple[str, str]:
    """Operation and path of the DICOMweb server.

    Raises:
        InputError: a path that DICOMweb does not have, such as one that leads elsewhere on that server.
    """
    operation, _, rest = path.partition("/")
    if operation not in _OPERATIONS:
        operation, rest = "", path
    if not _PATH.fullmatch(rest) or ".." in rest:
        raise InputError(repr(path[:80]), "is no path of DICOMweb.", "Ask for studies, series or instances.")
    return operation, rest


def _url(operation: str, rest: str) -> str:
    prefixes = {
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "qido": settings.MONAI_LABEL_WADO_PREFIX if rest.endswith("metadata") else settings.MONAI_LABEL_QIDO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }
    studies = settings.MONAI_LABEL_STUDIES.rstrip("/")
    if not studies.startswith(("http://", "https://")):
        raise ConflictError("studies", "of this server lie in a folder.", "OHIF needs a DICOMweb server; Slicer does not.")
    prefix = prefixes.get(operation)
    return f"{studies}/{prefix}/{rest}" if prefix else f"{studies}/{rest}"


def _client(request: Request) -> httpx.AsyncClient:
    client: httpx.AsyncClient = request.app.state.dicomweb
    return client


def client() -> httpx.AsyncClient:
    """A client of the DICOMweb server, with the name and password of MONAI Label's settings."""
    name, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    auth = httpx.BasicAuth(name, password) if name and password else None
    return httpx.AsyncClient(auth=auth, timeout=httpx.Timeout(60.0, connect=5.0), limits=httpx.Limits(max_connections=32))


def _value(item: dict[str, Any], tag: str) -> Any:
    values = item.get(tag, {}).get("Value") or [None]
    return values[0]
