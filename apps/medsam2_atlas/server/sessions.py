"""`/session`: temporary images that do not become studies. The routes are MONAI Label's, with additional checks.

The owner of a session, reviewers and admins can see, use and remove it. For all other users it does not exist.
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

_MAX_SECONDS = 7 * 24 * 3600


def session_of(session_id: str, user: User) -> Any:
    """Returns a session of MONAI Label.

    Args:
        session_id: id of the session.
        user: the user who sent the request.

    Raises:
        NotFoundError: the session does not exist, has ended, or belongs to another user.
    """
    session = _sessions().get_session(session_id, update_ts=False)
    if session is None or not may_use(user, owner_of(session)):
        raise NotFoundError(repr(session_id[:80]), "is no session, or the session has ended.", "Upload the image again.")
    return _sessions().get_session(session_id) or session


@router.put("/", summary="Upload an image for a session")
def create(
    request: Request,
    files: Annotated[list[UploadFile], File()],
    uncompress: bool = False,
    expiry: Annotated[int, Query(ge=0, le=_MAX_SECONDS)] = 0,
) -> dict[str, Any]:
    """Returns the session's id.

    One file is an image; several files are the slices of one DICOM series. The server reads them first: it refuses files that
    are no image, and drops files that are not slices of the series.
    """
    if uncompress:
        raise InputError("archive", "cannot be unpacked here.", "Send the image, or all files of the series as `files`.")
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
    """Returns the session's description; with `image`, its file."""
    session = session_of(session_id, user_of(request))
    if update_ts:
        _sessions().get_session(session_id, update_ts=True)
    if not image:
        return _about(session)
    if not Path(session.image).is_file():
        raise ConflictError(
            session_id,
            "is a series of several files and cannot be downloaded as one file.",
            "Use the series that was uploaded.",
        )
    return FileResponse(session.image, filename=Path(session.image).name)


@router.delete("/{session_id}", summary="End a session")
def remove(request: Request, session_id: str) -> dict[str, Any]:
    """Removes the session and returns its description."""
    session = session_of(session_id, user_of(request))
    _sessions().remove_session(session_id)
    return _about(session)


def _check(image: Path) -> None:
    """Checks that an image can be read. Removes files of a folder that are not slices of its series.

    Raises:
        InputError: the file or folder cannot be read as a CT.
    """
    read_volume(image)
    if image.is_dir():
        slices = set(run_task("slice_files", image, folder=str(image))[0]["files"])
        for file in image.iterdir():
            if file.name not in slices:
                file.unlink()


def _about(session: Any) -> dict[str, Any]:
    """Returns a session's description for clients: MONAI Label's fields, without the folder of the image."""
    about: dict[str, Any] = session.to_json()
    return about | {"path": "", "image": Path(session.image).name}


def _sessions() -> Any:
    sessions = app_instance().sessions()
    if sessions is None:
        raise ConflictError("sessions", "are disabled.", "Set MONAI_LABEL_SESSIONS=true.")
    return sessions
