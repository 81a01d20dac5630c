"""A DICOMweb server for the CTs of a studies folder, at the path where the PACS would be (`/proxy/dicom`).

It answers searches (QIDO-RS) and retrievals (WADO-RS): metadata, instances, frames, and pictures of slices. Instances are made
on demand (`medsam2_atlas.dicom.instances`); a CT is decoded when its metadata, files or frames are first requested, and kept
up to a limit (`server_viewer_mb`). The `final` label map of a study is offered as a SEG series, as a PACS would have it.
Storing goes through `stow`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from datastores.folder_datastore import FolderDatastore, OfferedSeg
from medsam2_atlas.base.errors import NotFoundError
from medsam2_atlas.base.json_text import to_json
from medsam2_atlas.dicom.instances import OpenSeries, Part, accepts, multipart, parse_query
from medsam2_atlas.dicom.instances.media import DICOM, EXPLICIT_LITTLE_ENDIAN, FRAMES, JSON
from medsam2_atlas.dicom.instances.pictures import THUMBNAIL
from medsam2_atlas.dicom.uids import valid_uid
from server import errors
from server.audit import note
from server.folder_lists import found_items
from server.root_path import root_of

_OPENING = 2
"""Max number of requests that occupy a thread while a CT is decoded or a SEG is written. The others wait without a thread."""
_LEVELS = ("studies", "series", "instances")
_PICTURES: dict[Literal["JPEG", "PNG"], str] = {"JPEG": "image/jpeg", "PNG": "image/png"}
_REMEDY = "Search for the study again; it may have been removed or replaced."
_FRAME_LIST = re.compile(r"[0-9]{1,6}(,[0-9]{1,6}){0,999}")

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """The object of a request.

    Attributes:
        searched: the level whose objects are listed; empty for a retrieval.
        uids: UIDs by level.
        what: the rest of the path, such as `metadata` or `frames/1`; empty for the DICOM files.
    """

    searched: str
    uids: dict[str, str]
    what: str = ""


@dataclass(frozen=True)
class _Chosen:
    """The series of a retrieval: study, whether CT or SEG are included, and the number of the CT's only instance."""

    study: str
    ct: bool
    seg: bool
    number: int | None = None


def parse_target(path: str) -> Target:
    """Returns the object that a DICOMweb path names.

    Args:
        path: DICOMweb path, such as `studies/1.2/series`.

    Raises:
        NotFoundError: the path names no object of DICOMweb.

    >>> parse_target("studies/1.2/series").searched, parse_target("studies/1.2/metadata").what
    ('series', 'metadata')
    """
    parts, uids, place = path.strip("/").split("/"), dict[str, str](), 0
    while place < len(parts) and parts[place] in _LEVELS[len(uids) and _LEVELS.index(next(reversed(uids))) + 1 :]:
        if place + 1 == len(parts):
            return Target(parts[place], uids)
        if not valid_uid(parts[place + 1]):
            break
        uids[parts[place]], place = parts[place + 1], place + 2
    if tuple(uids) != _LEVELS[: len(uids)] or not uids:
        raise NotFoundError(path[:80], "is not an object of DICOMweb.", "Request studies, series or instances.")
    return Target("", uids, "/".join(parts[place:]))


async def answer(request: Request, datastore: FolderDatastore, path: str) -> Response:
    """Answers a search or a retrieval; 406 if the client accepts no form in which the server has the object.

    Args:
        request: the request.
        datastore: the studies.
        path: DICOMweb path.

    Raises:
        NotFoundError: the object does not exist.
        InputError: a CT cannot be read, or a search has an invalid limit.
    """
    target, accept = parse_target(path), request.headers.get("accept", "")
    if target.searched:
        if not accepts(accept, JSON):
            return _not_acceptable(JSON)
        query = parse_query(request.query_params.multi_items())
        items = await run_in_threadpool(found_items, datastore, target.searched, target.uids, query, root_of(request.scope))
        return _json(items)
    chosen = await run_in_threadpool(_chosen, datastore, target.uids)
    note(request.scope, study=chosen.study)
    if target.what == "metadata":
        return await _metadata(datastore, chosen, accept)
    if not target.what:
        return await _files(datastore, chosen, accept)
    if target.what.startswith("frames/"):
        return await _frames(datastore, chosen, target.what.partition("/")[2], accept)
    if target.what in ("rendered", "thumbnail"):
        return await _picture(datastore, chosen, target.what == "thumbnail", accept)
    raise NotFoundError(path[:80], "is not an object of DICOMweb.", "Request metadata, frames, rendered or thumbnail.")


async def _metadata(datastore: FolderDatastore, chosen: _Chosen, accept: str) -> Response:
    if not accepts(accept, JSON):
        return _not_acceptable(JSON)
    opened, seg = await _both(datastore, chosen)
    found: list[Any] = []
    if opened is not None:
        number = chosen.number
        found += [opened.series.json(number)] if number else await run_in_threadpool(opened.series.metadata)
    if seg is not None:
        found.append(seg.header.to_json_dict())
    return _json(found)


async def _files(datastore: FolderDatastore, chosen: _Chosen, accept: str) -> Response:
    if not accepts(accept, DICOM, multipart=True):
        return _not_acceptable(f'multipart/related; type="{DICOM}"')
    opened, seg = await _both(datastore, chosen)
    kind = f"{DICOM}; transfer-syntax={EXPLICIT_LITTLE_ENDIAN}"

    def parts() -> Iterator[Part]:
        if opened is not None:
            for number in [chosen.number] if chosen.number else range(1, opened.series.count + 1):
                yield Part(kind, opened.file(number))
        if seg is not None:
            yield Part(kind, seg.content)

    content_type, pieces = multipart(DICOM, parts())
    return StreamingResponse(pieces, media_type=content_type)


async def _frames(datastore: FolderDatastore, chosen: _Chosen, numbers: str, accept: str) -> Response:
    if not accepts(accept, FRAMES, multipart=True):
        return _not_acceptable(f'multipart/related; type="{FRAMES}"')
    if not _FRAME_LIST.fullmatch(numbers) or {int(number) for number in numbers.split(",")} != {1} or not chosen.number:
        raise NotFoundError("frames", f"{numbers[:20]} do not exist.", "A slice has frame 1; fetch segmentations as a whole.")
    opened = await _opened(datastore, chosen.study)
    kind = f"{FRAMES}; transfer-syntax={EXPLICIT_LITTLE_ENDIAN}"
    content_type, pieces = multipart(FRAMES, [Part(kind, opened.frame(chosen.number))])
    return Response(b"".join(pieces), media_type=content_type)


async def _picture(datastore: FolderDatastore, chosen: _Chosen, small: bool, accept: str) -> Response:
    """Returns a picture of a slice; of the middle one if the request names a study or series."""
    kind = next((kind for kind, name in _PICTURES.items() if accepts(accept, name)), None)
    if kind is None:
        return _not_acceptable(" or ".join(_PICTURES.values()))
    if not chosen.ct:
        raise NotFoundError("segmentation", "has no picture.", "The worklist has pictures of label maps.")
    opened = await _opened(datastore, chosen.study)
    number = chosen.number or opened.series.count // 2 + 1
    size = THUMBNAIL if small else None
    content = await run_in_threadpool(opened.picture, number, kind, size)
    return Response(content, media_type=_PICTURES[kind])


async def _both(datastore: FolderDatastore, chosen: _Chosen) -> tuple[OpenSeries | None, OfferedSeg | None]:
    """Returns the CT and the SEG, as far as they are requested. One is decoded while the other is written.

    If both are requested and the SEG cannot be written, returns the CT only.
    """

    async def seg() -> OfferedSeg | None:
        make = datastore.offered_seg if chosen.ct else datastore.seg
        return await _slow(lambda: make(chosen.study)) if chosen.seg else None

    async def ct() -> OpenSeries | None:
        return await _opened(datastore, chosen.study) if chosen.ct else None

    return await asyncio.gather(ct(), seg())


async def _opened(datastore: FolderDatastore, study: str) -> OpenSeries:
    """Returns a CT. A request for an open CT never waits for the decoding of another one."""
    held = await run_in_threadpool(datastore.instances.held, study)
    return held if held is not None else await _slow(lambda: datastore.instances.open(study))


async def _slow(work: Callable[[], T]) -> T:
    return await to_thread.run_sync(work, limiter=_limiter())


@cache
def _limiter() -> CapacityLimiter:
    return CapacityLimiter(_OPENING)


def _chosen(datastore: FolderDatastore, uids: dict[str, str]) -> _Chosen:
    """Returns the study and the series that UIDs name.

    Raises:
        NotFoundError: there is no such object.
    """
    study, series, instance = (uids.get(level, "") for level in _LEVELS)
    name = datastore.instances.study_of(study)
    if not name or datastore.instances.uids(name)[0] != study:
        raise NotFoundError(f"study {study}", "does not exist here.", _REMEDY)
    ct, seg = datastore.instances.uids(name)[1], datastore.seg_series(name)
    if series and series not in (ct, seg):
        raise NotFoundError(f"series {series}", "does not exist here.", _REMEDY)
    number = None
    if instance and series == ct:
        number = datastore.instances.series(name).number_of(instance)
    known = number is not None or not instance or (series == seg and datastore.seg(name).header.SOPInstanceUID == instance)
    if not known:
        raise NotFoundError(f"instance {instance}", "does not exist here.", _REMEDY)
    return _Chosen(name, series in ("", ct), bool(seg) and series in ("", seg), number)


def _json(content: list[Any]) -> Response:
    return Response(to_json(content).encode(), media_type=JSON)


def _not_acceptable(offered: str) -> Response:
    response: Response = errors.respond(406, "The server has this object in another form only.", f"Accept {offered}.")
    return response
