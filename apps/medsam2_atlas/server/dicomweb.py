"""Passes viewers' searches and retrievals on to the PACS (the DICOMweb server); `stow` handles the objects that viewers store.

If the studies are in a folder, this server is the DICOMweb server itself, at the same path; see `folder_dicomweb`.

Viewers get only the newest version of a label map. If the PACS hangs, this server detects that within seconds and answers 503
at once until the PACS answers again.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
from fastapi import APIRouter, Request
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from datastores.folder_datastore import FolderDatastore
from datastores.pacs_datastore import PacsDatastore
from medsam2_atlas.base.errors import ConflictError, InputError, UnavailableError
from medsam2_atlas.base.json_text import to_json
from medsam2_atlas.dicom.web import DicomWeb
from server import folder_dicomweb
from server.pacs_links import BULK_DATA, DICOMWEB_PATH, RETRIEVE_URL, OwnLinks
from server.root_path import root_of

router = APIRouter(prefix="/proxy/dicom", tags=["DICOMweb"])

_PASSED = ("accept", "accept-language", "if-none-match", "range")
_RETURNED = ("content-type", "etag", "content-range", "warning")
_OPERATIONS = ("wado", "qido", "stow")
_MODALITY, _SERIES, _NUMBER = "00080060", "0020000E", "00200013"
_MAX_LIST_BYTES = 200_000_000
_CONNECT_SECONDS, _POOL_SECONDS = 3.0, 15.0
_SEARCH_SECONDS, _RETRIEVE_SECONDS = 60.0, 120.0
"""Max seconds that the PACS may take to begin an answer, or to continue one."""
_SILENCE_SECONDS, _POLL_SECONDS = 3.0, 0.25
_UNANSWERED = (httpx.TransportError,)
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$'()*,:@/?")
"""Characters that need no escape in a value of a query (RFC 3986, section 3.4), without those that some servers split at."""
_REMEDY = "Is it running? Try again in a minute. Series that were fetched before can be segmented meanwhile."


@router.get("/{path:path}", include_in_schema=False)
async def look_up(request: Request, path: str) -> Response:
    """Returns the PACS' answer, or that of the studies folder. Answers 503 at once while the PACS does not answer."""
    operation, rest = split(path)
    datastore = app_instance().datastore()
    if isinstance(datastore, FolderDatastore):
        return await folder_dicomweb.answer(request, datastore, rest)
    searching = operation == "qido" and not rest.rstrip("/").endswith("metadata")
    try:
        upstream = _client(request).build_request(
            "GET",
            with_query(_url(operation, rest), request.scope.get("query_string", b"")),
            headers={name: request.headers[name] for name in _PASSED if name in request.headers},
            timeout=_timeout(_SEARCH_SECONDS if searching else _RETRIEVE_SECONDS),
        )
    except httpx.InvalidURL as error:
        raise InputError("address", f"cannot be sent to the PACS ({error}).", "Correct the query of the request.") from error
    try:
        answer = await _sent(_client(request), upstream, pacs_datastore().web)
    except UnavailableError as error:
        raise UnavailableError("PACS", error.problem, _REMEDY) from error
    headers = {name: answer.headers[name] for name in _RETURNED if name in answer.headers}
    if "json" in answer.headers.get("content-type", ""):
        content = await _whole(answer)
        if answer.status_code == 200 and content:
            instances = rest.rstrip("/").endswith(("metadata", "instances"))
            content = await run_in_threadpool(_changed, content, instances, root_of(request.scope))
        return Response(content, answer.status_code, headers)
    return StreamingResponse(_pieces(answer), answer.status_code, headers)


def newest_segmentations(instances: Any) -> Any:
    """Removes old versions of segmentations from a list of instances.

    Args:
        instances: a list of instances in DICOM JSON. Any other value is returned unchanged.

    Returns:
        The list, with only the highest instance number of each segmentation series.
    """
    if not isinstance(instances, list):
        return instances
    newest: dict[str, int] = {}
    for item in instances:
        if _value(item, _MODALITY) == "SEG":
            series = str(_value(item, _SERIES))
            newest[series] = max(newest.get(series, -1), _number(item))
    return [
        item for item in instances if _value(item, _MODALITY) != "SEG" or _number(item) == newest[str(_value(item, _SERIES))]
    ]


async def _sent(client: httpx.AsyncClient, request: httpx.Request, pacs: DicomWeb) -> httpx.Response:
    """Returns an answer once its headers have arrived. After some seconds it probes the PACS and gives up if the PACS hangs."""
    with pacs.breaker.guard(*_UNANSWERED):
        began, sending = pacs.breaker.now(), asyncio.ensure_future(_begun(client, request))
        try:
            await asyncio.wait({sending}, timeout=_SILENCE_SECONDS)
            if not sending.done():
                pacs.start_probe()
            while not sending.done():
                if pacs.breaker.failed_since(began):
                    raise UnavailableError("PACS", f"does not answer ({pacs.breaker.problem}).", _REMEDY)
                await asyncio.wait({sending}, timeout=_POLL_SECONDS)
            return sending.result()
        finally:
            sending.cancel()


async def _begun(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Returns an answer once its headers have arrived. A full connection pool does not count as a failure of the PACS."""
    try:
        return await client.send(request, stream=True)
    except httpx.PoolTimeout as error:
        raise UnavailableError("PACS", "has too many requests from this server at once.", "Try again in a minute.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        if isinstance(error, _UNANSWERED):
            raise
        raise UnavailableError("PACS", f"cannot be reached ({error}).", "Check its URL.") from error


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yields the body of an answer as it arrives. If the PACS aborts the answer, this server aborts it, too."""
    try:
        async for piece in answer.aiter_bytes():
            yield piece
    finally:
        with anyio.CancelScope(shield=True):
            await answer.aclose()


async def _whole(answer: httpx.Response) -> bytes:
    """Returns the whole body of an answer."""
    content = bytearray()
    try:
        async for piece in answer.aiter_bytes():
            content += piece
            if len(content) > _MAX_LIST_BYTES:
                raise InputError("list", f"is larger than {_MAX_LIST_BYTES / 1e6:.0f} MB.", "Ask for fewer instances.")
    except httpx.HTTPError as error:
        raise UnavailableError("PACS", f"stopped answering ({error}).", _REMEDY) from error
    finally:
        await answer.aclose()
    return bytes(content)


def _changed(content: bytes, instances: bool, root: str) -> bytes:
    """Returns DICOM JSON whose links lead through this server.

    In a list of instances it also removes old versions of segmentations. It returns content that is not JSON unchanged.
    """
    if not instances and not any(f'"{name}"'.encode() in content for name in (BULK_DATA, RETRIEVE_URL)):
        return content
    pacs = [_url("wado", ""), _url("qido", ""), settings.MONAI_LABEL_STUDIES]
    try:
        found = json.loads(content, object_hook=OwnLinks(pacs, root))
        return to_json(newest_segmentations(found) if instances else found).encode()
    except (ValueError, RecursionError):
        return content


def pacs_datastore() -> PacsDatastore:
    """Returns the server's PACS datastore.

    Raises:
        ConflictError: the server's studies are in a folder.
    """
    datastore = app_instance().datastore()
    if not isinstance(datastore, PacsDatastore):
        raise ConflictError("studies", "of this server are in a folder.", "Serve the DICOMweb URL of a PACS instead.")
    return datastore


def split(path: str) -> tuple[str, str]:
    """Splits the path of a request for the PACS into operation and DICOMweb path.

    Args:
        path: path below `/proxy/dicom/`, such as `qido/studies`. The operation may be missing.

    Returns:
        The operation (`wado`, `qido`, `stow`, or empty) and the path.

    Raises:
        InputError: the path is not a DICOMweb path, for example because it leads to other parts of the PACS.

    >>> split("qido/studies/1.2/series")
    ('qido', 'studies/1.2/series')
    """
    operation, _, rest = path.partition("/")
    if operation not in _OPERATIONS:
        operation, rest = "", path
    if not DICOMWEB_PATH.fullmatch(rest) or ".." in rest:
        raise InputError(repr(path[:80]), "is not a DICOMweb path.", "Request studies, series or instances.")
    return operation, rest


def with_query(url: str, query: bytes) -> str:
    """Returns the URL of a request to the PACS with a viewer's query, unchanged except for escapes that are not needed.

    Viewers escape every comma, as in `includefield=00081030%2C00080060`. The DICOMweb plugin of Orthanc 1.10 decodes no
    escape in a query, so it would ignore such fields, and find nothing for such values.

    Args:
        url: the URL without a query.
        query: the viewer's query, as its request contains it.

    >>> with_query("http://pacs/studies", b"includefield=00081030%2C00080060&PatientName=M%C3%BC%2A%26")
    'http://pacs/studies?includefield=00081030,00080060&PatientName=M%C3%BC*%26'
    """
    text = _ESCAPE.sub(_unescaped, query.decode("utf-8", "replace"))
    return f"{url}?{text}" if text else url


def _unescaped(escape: re.Match[str]) -> str:
    """Returns the character of an escape if it needs none, else the escape."""
    character = chr(int(escape[1], 16))
    return character if character in _PLAIN else escape[0]


def _url(operation: str, rest: str) -> str:
    prefixes = {
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "qido": settings.MONAI_LABEL_WADO_PREFIX if rest.endswith("metadata") else settings.MONAI_LABEL_QIDO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }
    studies = settings.MONAI_LABEL_STUDIES.rstrip("/")
    prefix = prefixes.get(operation)
    return f"{studies}/{prefix}/{rest}" if prefix else f"{studies}/{rest}"


def _client(request: Request) -> httpx.AsyncClient:
    client: httpx.AsyncClient = request.app.state.dicomweb
    return client


def client() -> httpx.AsyncClient:
    """Returns an HTTP client for the PACS, with the name and password of MONAI Label's settings."""
    name, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    auth = httpx.BasicAuth(name, password) if name and password else None
    return httpx.AsyncClient(auth=auth, timeout=_timeout(_RETRIEVE_SECONDS), limits=httpx.Limits(max_connections=64))


def _timeout(read: float) -> httpx.Timeout:
    return httpx.Timeout(read, connect=_CONNECT_SECONDS, pool=_POOL_SECONDS)


def _number(item: Any) -> int:
    try:
        return int(_value(item, _NUMBER) or 0)
    except (TypeError, ValueError):
        return 0


def _value(item: Any, tag: str) -> Any:
    """Returns the first value of an attribute in DICOM JSON; None if it is missing or the item is not DICOM JSON."""
    attribute = item.get(tag) if isinstance(item, dict) else None
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values[0] if isinstance(values, list) and values else None
