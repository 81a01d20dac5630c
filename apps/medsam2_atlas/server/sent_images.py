"""`PUT /datastore/upload`: adds CTs as studies: NIfTI, NRRD and MHA files, DICOM slices, and ZIP archives of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Request, UploadFile
from monailabel.interfaces.utils.app import app_instance

from datastores.pacs_datastore import PacsDatastore
from datastores.sent_cts import Outcome, SentFile, add_cts
from medsam2_atlas.base.errors import ConflictError
from server import errors
from server.access import user_of
from server.answers import JsonAnswer
from server.audit import note
from server.context import mention
from server.forms import LimitedRoute
from server.in_turn import UPLOADS, in_turn
from server.uploads import received

router = APIRouter(prefix="/datastore", tags=["Datastore"], route_class=LimitedRoute)

_UNPACKED = 3
"""Max size of an unpacked archive, as a multiple of the max size of an upload."""


@router.put("/upload", summary="Upload CTs: image files, DICOM slices, or ZIP archives")
async def upload(request: Request, files: Annotated[list[UploadFile], File()], image: str = "") -> JsonAnswer:
    """Returns the new studies (`added`) and what could not be added, with the reasons (`failed`).

    The status is 200 if everything was added, 207 if only a part was, and 422 if nothing was. `image` names the study; by
    default, its name is that of the file. All DICOM files of a request are sorted into series, each of which becomes a study.
    """
    instance, user = app_instance(), user_of(request)
    if isinstance(instance.datastore(), PacsDatastore):
        raise ConflictError("studies", "of this server are in a PACS.", "Send the series to the PACS.")
    if image:
        mention(image)
    limit = request.app.state.config.upload_mb * 1_000_000 * _UNPACKED

    def work() -> list[Outcome]:
        kept = list[SentFile]()
        try:
            for file in files:
                kept.append(SentFile(Path(file.filename or "").name or "file", received(file, "")))
            return add_cts(instance.datastore(), kept, image, {"user": user.name}, limit)
        finally:
            for one in kept:
                one.file.unlink(missing_ok=True)

    outcomes = await in_turn(work, UPLOADS)
    added = [{"file": one.name, "image": one.study} for one in outcomes if one.error is None]
    failed = [_failure(one) for one in outcomes if one.error is not None]
    for one in added:
        note(request.scope, study=one["image"])
    if not added:
        first = failed[0] if failed else {"message": "The request contains no files.", "remedy": "Send the files of a CT."}
        return JsonAnswer(errors.body(422, first["message"], first["remedy"], added=[], failed=failed), 422)
    return JsonAnswer({"added": added, "failed": failed}, 207 if failed else 200)


def _failure(one: Outcome) -> dict[str, Any]:
    """Returns the reason why a file was not added, without the server's paths."""
    assert one.error is not None
    about = errors.body(422, f"{one.name}: {one.error.problem}", one.error.remedy)["error"]
    return {"file": one.name, "message": about["message"], "remedy": about["remedy"]}
