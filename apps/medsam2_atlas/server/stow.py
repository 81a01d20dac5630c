"""Receives DICOM segmentations from viewers by STOW-RS and saves them as label maps.

The server writes bodies to disk while they arrive. A reader process reads each object, which becomes the next version of the
series' `final` label map. The server writes this version as a new SEG and sends it to the PACS, or offers it with the studies
of a folder. It refuses other objects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from monailabel.interfaces.utils.app import app_instance
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from datastores.folder_datastore import FolderDatastore
from datastores.pacs_datastore import PacsDatastore
from datastores.segmentations import StoredSeg
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.base.scratch import scratch_folder
from medsam2_atlas.dicom.multipart import MultipartFiles, MultipartLimits
from medsam2_atlas.dicom.uids import valid_uid
from medsam2_atlas.storage import FINAL
from server.access import user_of
from server.answers import JsonAnswer
from server.audit import note
from server.dicomweb import split
from server.paths import without_paths
from server.root_path import root_of

router = APIRouter(prefix="/proxy/dicom", tags=["DICOMweb"])

_STOW_LIMITS = MultipartLimits(parts=64, part_bytes=1_000_000_000, total_bytes=4_000_000_000)
"""Limits in addition to the max size of a request (`server_upload_mb`), which is checked first."""
_BLOCK = 1 << 20
_PROCESSING_FAILURE = 0x0110


@router.post("/{path:path}", include_in_schema=False)
async def store(request: Request, path: str, content_type: Annotated[str, Header()] = "", confirm: bool = False) -> Response:
    """Saves DICOM segmentations and answers in STOW's format. With `confirm=true`, label maps may lose organs."""
    _, rest = split(path)
    name, _, study = rest.strip("/").partition("/")
    if name != "studies" or (study and not valid_uid(study)):
        raise InputError(path[:80], "accepts no objects.", "POST them to …/studies.")
    with scratch_folder() as folder:
        files = await _received(request.stream(), content_type, folder)
        status, answer = await run_in_threadpool(_save, files, request, confirm)
    return JsonAnswer(answer, status, media_type="application/dicom+json")


async def _received(stream: AsyncIterator[bytes], content_type: str, folder: Path) -> list[Path]:
    """Returns the objects of a multipart message as files, which are written while the message arrives."""
    waiting = bytearray()
    with MultipartFiles(folder, content_type, _STOW_LIMITS) as message:
        async for chunk in stream:
            waiting += chunk
            if len(waiting) >= _BLOCK:
                await run_in_threadpool(message.write, bytes(waiting))
                waiting.clear()
        await run_in_threadpool(message.write, bytes(waiting))
        return message.finish()


def _save(files: list[Path], request: Request, confirm: bool) -> tuple[int, dict[str, Any]]:
    """Saves the objects and returns status and answer. Links in the answer begin with the root path.

    Reads all objects before saving the first, so that an invalid object changes nothing.
    """
    if not files:
        raise InputError("request", "contains no DICOM objects.", "Send multipart/related; type=application/dicom.")
    user, root = user_of(request), root_of(request.scope)
    datastore: PacsDatastore | FolderDatastore = app_instance().datastore()
    segs = list[StoredSeg]()
    stored: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    try:
        segs.extend(datastore.read_seg(file) for file in files)
        for seg in segs:
            about = _reference(seg)
            line: dict[str, Any] = {"study": seg.study, "tag": FINAL}
            try:
                info = {"user": user.name, "from": "DICOM SEG"} | ({"confirm": True} if confirm else {})
                saved = datastore.save_person_label(seg.study, seg.file, FINAL, info, user.id)
            except MedSAM2AtlasError as error:
                if len(segs) == 1:
                    note(request.scope, **line)
                    raise
                note(request.scope, **line, outcome="failed")
                failed.append(about | {"00081197": {"vr": "US", "Value": [_PROCESSING_FAILURE]}} | _comment(str(error)))
                continue
            note(request.scope, **line, version=saved.label.version.number)
            app_instance().on_save_label(seg.study, seg.study)
            url = f"{root}/datastore/label?label={saved.label.study}&tag={saved.label.tag}"
            stored.append(about | {"00081190": {"vr": "UR", "Value": [url]}})
    finally:
        for seg in segs:
            seg.file.unlink(missing_ok=True)
    answer = {"00081199": {"vr": "SQ", "Value": stored}} if stored else {}
    if failed:
        return 202 if stored else 409, answer | {"00081198": {"vr": "SQ", "Value": failed}}
    return 200, answer


def _reference(seg: StoredSeg) -> dict[str, Any]:
    return {"00081150": {"vr": "UI", "Value": [seg.sop_class]}, "00081155": {"vr": "UI", "Value": [seg.sop_instance]}}


def _comment(text: str) -> dict[str, Any]:
    return {"00000902": {"vr": "LO", "Value": [without_paths(text)[:64]]}}
