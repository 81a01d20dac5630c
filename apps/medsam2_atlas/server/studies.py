"""`/datastore`: saves checked images and label maps with their author; lists, restores, confirms and reviews versions."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Body, File, Form, Request, UploadFile
from fastapi.responses import FileResponse
from monailabel.interfaces.utils.app import app_instance
from starlette.background import BackgroundTask
from starlette.responses import Response

from datastores.client_info import check_image_info, check_label_info, check_size, without_server_keys
from datastores.descriptions import without_work
from datastores.folder_datastore import FolderDatastore
from datastores.pacs_datastore import PacsDatastore
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.base.errors import AccessError, InputError
from medsam2_atlas.base.json_text import plain
from medsam2_atlas.imaging.decoding import check_same_size
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.sent_labels import renumber, volume_to_file
from medsam2_atlas.storage import FINAL, MAX_COMMENT, Person, Version, suffix_of
from server.access import user_of
from server.audit import note
from server.forms import LimitedRoute
from server.in_turn import in_turn
from server.owners import may_use
from server.people import User
from server.uploads import json_object, received

_OPTIONS = ("expected_version", "confirm")
"""Entries of `params` that control how a label map is saved. They are not stored."""

router = APIRouter(prefix="/datastore", tags=["Datastore"], route_class=LimitedRoute)


@router.put("/", summary="Upload an image", include_in_schema=False, deprecated=True)
@router.put("/image", summary="Upload an image")
def add_image(
    request: Request, file: Annotated[UploadFile, File()], image: str | None = None, params: Annotated[str, Form()] = "{}"
) -> dict[str, Any]:
    """Returns the study's id: the requested id (`image`), or else the file's name without its suffix."""
    name = Path(file.filename or "").name
    suffix = suffix_of(name)
    kept = received(file, suffix)
    try:
        info, _ = without_server_keys(json_object(params))
        check_image_info(info)
        check_size(info)
        info["user"] = user_of(request).name
        study = image or name[: -len(suffix)]
        note(request.scope, study=study)
        return {"image": app_instance().datastore().add_image(study, str(kept), info)}
    finally:
        kept.unlink(missing_ok=True)


@router.put("/label", summary="Save a label map")
def save_label(
    request: Request,
    image: str,
    label: Annotated[UploadFile, File()],
    params: Annotated[str, Form()] = "{}",
    tag: str = FINAL,
    expected_version: int | None = None,
    confirm: bool | None = None,
) -> dict[str, Any]:
    """Returns the new version, its organs, and the version that it replaces.

    With `expected_version` (here or in `params`), only that version is replaced; otherwise the answer is 409. A `final` label
    map that is empty or lacks organs of the previous version is refused (409, `error.organs`). To save it anyway, set `confirm`
    to true (here or in `params`), or, without any `confirm`, send it again within ten minutes as the same person. `left_out`
    lists entries of `params` that only the server may write and that were not stored.
    """
    instance = app_instance()
    tag = tag or FINAL
    sent = json_object(params)
    info, left_out = without_server_keys(sent)
    info |= {key: sent[key] for key in _OPTIONS if key in sent} | {"user": user_of(request).name}
    if expected_version is not None:
        info["expected_version"] = expected_version
    if confirm is not None:
        info["confirm"] = confirm
    grid = info.pop("volume", None)
    check_size(info)
    kept = _received_label(label, grid)
    try:
        check_same_size(kept, Path(_datastore().get_image_uri(image)))  # this cheap check comes before a reader process
        renumber(kept, info.get("label_info") or [])
        made = _datastore().save_person_label(image, kept, tag, info, user_of(request).id)
    finally:
        kept.unlink(missing_ok=True)
    user = user_of(request)
    replaced = None if made.replaced is None else _about(made.replaced, user)
    version = made.label.version
    note(request.scope, version=version.number)
    saved = {"image": image, "label": image, "tag": tag, **_about(version, user)}
    saved |= {"organs": _names(version), "replaced": replaced}
    if left_out := [key for key in left_out if key not in _OPTIONS]:
        saved["left_out"] = left_out
    return saved | (instance.on_save_label(image, saved["label"]) or {})


@router.delete("/label", summary="Remove a label map; its versions are kept")
def remove_label(request: Request, id: str, tag: str) -> dict[str, Any]:
    """Returns an empty object."""
    user = user_of(request)
    _datastore().store.remove_label(id, tag, author=user.name, author_id=user.id)
    return {}


@router.put("/image/info", summary="Add to the information about an image")
def update_image_info(image: str, info: Annotated[str, Form()] = "{}") -> dict[str, Any]:
    """Returns an empty object."""
    added = json_object(info)
    check_image_info(added)
    _datastore().update_image_info(image, added, check_size)
    return {}


@router.put("/label/info", summary="Add to the information about a label map")
def update_label_info(request: Request, label: str, tag: str, info: Annotated[str, Form()] = "{}") -> dict[str, Any]:
    """Returns an empty object. For the version's author, reviewers and admins. Entries of the server cannot be changed."""
    added, user = json_object(info), user_of(request)
    check_label_info(added)

    def accept(version: Version) -> None:
        if not may_use(user, version.author_id if version.origin == "person" else ""):
            raise AccessError(f"{label} under {tag}", "is another person's label map.", "Ask its author, or a reviewer.")
        check_size(version.info)

    _datastore().update_label_info(label, tag, added, accept)
    return {}


@router.get("/label/versions", summary="All versions of a label map")
def list_versions(request: Request, label: str, tag: str = FINAL) -> list[dict[str, Any]]:
    """Returns the versions, the oldest first: number, author, time, origin, checksum, and the client's information.

    Annotators get the active time (`work` in the information) of their own versions only.
    """
    user = user_of(request)
    return [_about(version, user) for version in _datastore().store.versions(label, tag)]


@router.get("/label/version", summary="Download a version of a label map")
def download_version(request: Request, label: str, version: int, tag: str = FINAL) -> Response:
    """Returns the file of a version, unchanged."""
    note(request.scope, version=version)
    file = _datastore().store.version_file(label, tag, version)
    return FileResponse(file, filename=f"{label}.{tag}.{version}{suffix_of(file.name, labels=True)}")


@router.get("/label/rtstruct", summary="Download a label map as an RT structure set")
async def download_rtstruct(label: str, tag: str = FINAL) -> Response:
    """Returns a DICOM file for planning systems. It refers to the PACS' series, or to the instances of the folder's CT."""
    name = quote(f"{label}.{tag}.dcm", safe="")  # names of studies may contain any script
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
    return Response(await in_turn(lambda: _rtstruct(label, tag)), media_type="application/dicom", headers=headers)


@router.post("/label/restore", summary="Make an earlier version the current one")
def restore_version(request: Request, label: str, version: int, tag: str = FINAL) -> dict[str, Any]:
    """Returns the new version. It has the content of the earlier one."""
    user = user_of(request)
    made = _datastore().restore_label(label, tag, version, user.name, user.id)
    note(request.scope, version=made.label.version.number)
    app_instance().on_save_label(label, label)
    return _about(made.label.version, user)


@router.post("/label/confirm", summary="Confirm a label map for the present image")
def confirm_label(request: Request, label: str, tag: str = FINAL) -> dict[str, Any]:
    """Returns the new version with the same content. For label maps with a replaced image, or found in several files."""
    user = user_of(request)
    made = _datastore().confirm_label(label, tag, user.name, user.id)
    note(request.scope, version=made.label.version.number)
    app_instance().on_save_label(label, label)
    return _about(made.label.version, user)


@router.post("/label/accept", summary="Accept a signed-off label map as a reviewer")
def accept_label(request: Request, label: str, version: int, tag: str = FINAL) -> dict[str, Any]:
    """Returns the accepted version. It must be the current one (otherwise 409) and drawn by another person."""
    user = user_of(request)
    made = _datastore().store.accept_label(label, tag, version, Person(user.name, user.id))
    _datastore().claims.finish(label, user.id)
    app_instance().on_save_label(label, label)
    return _about(made.version, user)


@router.post("/label/return", summary="Return a signed-off label map to its author, with a comment")
def return_label(
    request: Request,
    label: str,
    version: int,
    comment: Annotated[str, Body(embed=True, max_length=MAX_COMMENT, description="what the author should change")],
    tag: str = FINAL,
) -> dict[str, Any]:
    """Returns the returned version. It must be the current one (otherwise 409) and drawn by another person.

    Models do not learn from it. It is the author's next case. 409 while the review stage is off.
    """
    user = user_of(request)
    made = _datastore().store.return_label(label, tag, version, Person(user.name, user.id), comment)
    _datastore().claims.finish(label, user.id)
    app_instance().on_save_label(label, label)
    return _about(made.version, user)


@router.get("/dataset", summary="All images and their signed-off label maps, as a ZIP file")
def download_dataset(limit_cases: int | None = None) -> Response:
    """Returns the ZIP file."""
    archive = Path(app_instance().datastore().get_dataset_archive(limit_cases))
    return FileResponse(archive, filename="dataset.zip", background=BackgroundTask(archive.unlink, missing_ok=True))


def _rtstruct(label: str, tag: str) -> bytes:
    datastore: PacsDatastore | FolderDatastore = app_instance().datastore()
    stream = BytesIO()
    datastore.rtstruct(label, tag).save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _received_label(label: UploadFile, grid: Any) -> Path:
    """Returns the label map's file. Viewers without a file send voxels (`.bin`) and their grid (`volume` in the params)."""
    if grid is None:
        return received(label, suffix_of(label.filename or "", labels=True))
    if not isinstance(grid, dict):
        raise InputError("volume", "is not a grid.", "Send dimensions, spacing, origin and direction.")
    raw = received(label, ".bin")
    file = raw.with_suffix(".nii.gz")
    try:
        volume_to_file(raw, grid, file)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    finally:
        raw.unlink()
    return file


def _datastore() -> StudyDatastore:
    datastore: StudyDatastore = app_instance().datastore()
    return datastore


def _names(version: Version) -> list[str] | None:
    """Returns the names of the organs in a version; None if unknown."""
    return None if version.organs is None else [organ_table()[k].name for k in version.organs if k in organ_table().indices]


def _about(version: Version, user: User) -> dict[str, Any]:
    """Returns the description of a version for a person. `pacs`: whether the PACS has it (`state`), or why not (`problem`)."""
    info = version.info if may_use(user, version.author_id) else without_work(version.info)
    about = {
        "version": version.number,
        "author": version.author,
        "made": version.made,
        "origin": version.origin,
        "removed": version.removed,
        "sha256": version.sha256,
        "info": plain(info),
        "accepted": dict(version.accepted) or None,
        "returns": [dict(entry) for entry in version.returns],
    }
    return about | ({"pacs": version.info["pacs"]} if "pacs" in version.info else {})
