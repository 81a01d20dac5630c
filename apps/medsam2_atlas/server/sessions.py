"""`/session`: images that are worked on for a while without becoming studies; as MONAI Label's, but checked.

A session can be seen, used and removed by its owner, reviewers and admins. For others it does not exist.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Query, Request, UploadFile
from fastapi.responses import FileResponse
from monailabel.interfaces.utils.app import app_instance

from datastores.session_folders import owner_of
from medsam2_atlas.base.errors import ConflictError, InputError, NotFoundError
from medsam2_atlas.base.scratch import scratch_folder
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.storage import suffix_of
from server.access import user_of
from server.forms import LimitedRoute
from server.owners import may_use, owner_id
from server.people import User
from server.uploads import received

router = APIRouter(prefix="/session", tags=["Session"], route_class=LimitedRoute)

_LONGEST_SECONDS = 7 * 24 * 3600


def session_of(session_id: str, user: User) -> Any:
    """Returns a session of MONAI Label.

    Raises:
        NotFoundError: no such session, one that has ended, or another person's.
    """
    session = _sessions().get_session(session_id, update_ts=False)
    if session is None or not may_use(user, owner_of(session)):
        raise NotFoundError(repr(session_id[:80]), "is no session, or one that has ended.", "Upload the image again.")
    return _sessions().get_session(session_id) or session


@router.put("/", summary="Upload an image to work on for a while")
def create(
    request: Request,
    files: Annotated[list[UploadFile], File()],
    uncompress: bool = False,
    expiry: Annotated[int, Query(ge=0, le=_LONGEST_SECONDS)] = 0,
) -> dict[str, Any]:
    """The session's id. One file is an image; several are the slices of one DICOM series. They are read before they are kept:
    what is no image is refused, and files beside the slices of a series are not kept."""
    if uncompress:
        raise InputError("archive", "is not unpacked here.", "Send the image, or all files of the series as `files`.")
    with scratch_folder() as folder:
        if len(files) == 1:
            image = folder / f"image{suffix_of(files[0].filename or '')}"
            received(files[0], image.suffix).replace(image)
        else:
            image = folder / "series"
            image.mkdir()
            for number, file in enumerate(files):
                received(file, ".dcm").replace(image / f"{number:05d}.dcm")
        _check(image)
        limit: int = request.app.state.config.sessions_per_person
        session_id, session = _sessions().add_owned(image, expiry, owner_id(user_of(request)), limit)
        return {"session_id": session_id, "session_info": _about(session)}


@router.get("/{session_id}", summary="A session, or its image")
def show(request: Request, session_id: str, update_ts: bool = False, image: bool = False) -> Any:
    """What is known of it; with `image`, the file."""
    session = session_of(session_id, user_of(request))
    if update_ts:
        _sessions().get_session(session_id, update_ts=True)
    if not image:
        return _about(session)
    if not Path(session.image).is_file():
        raise ConflictError(session_id, "is of a series of several files.")
    return FileResponse(session.image, filename=Path(session.image).name)


@router.delete("/{session_id}", summary="End a session")
def remove(request: Request, session_id: str) -> dict[str, Any]:
    """What was known of it."""
    session = session_of(session_id, user_of(request))
    _sessions().remove_session(session_id)
    return _about(session)


def _check(image: Path) -> None:
    """Refuses what is no CT, and removes files of a folder that are no slices of its series.

    Raises:
        InputError: it cannot be read as an image.
    """
    read_volume(image)
    if image.is_dir():
        slices = set(run_task("slice_files", image, folder=str(image))[0]["files"])
        for file in image.iterdir():
            if file.name not in slices:
                file.unlink()


def _about(session: Any) -> dict[str, Any]:
    """Returns what clients are told of a session: the fields of MONAI Label, without the folder that the image lies in."""
    about: dict[str, Any] = session.to_json()
    return about | {"path": "", "image": Path(session.image).name}


def _sessions() -> Any:
    sessions = app_instance().sessions()
    if sessions is None:
        raise ConflictError("sessions", "are switched off.", "Set MONAI_LABEL_SESSIONS=true.")
    return sessions
