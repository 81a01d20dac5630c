"""`/annotation/refine`: an interactive model answers a mark at once, on the label map that the viewer shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from monailabel.interfaces.utils.app import app_instance
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.json_text import to_json
from medsam2_atlas.base.scratch import scratch_file
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import write_volume
from server.annotation import ImageMark, opened
from server.audit import note
from server.forms import LimitedRoute
from server.in_turn import in_turn
from server.infer import outcome, submitted
from server.masks import discard
from server.packed_bodies import packed_answer, unpacked
from server.parameters import infer_parameters
from server.uploads import json_object, received
from tasks.annotated_case import AnnotatedCase
from tasks.known import check_model
from tasks.requests import GivenMask

router = APIRouter(prefix="/annotation", tags=["Annotation"], route_class=LimitedRoute)

_MARKS = ("boxes", "foreground", "background")
_SENT = (*_MARKS, "reach")
_UNCOMPRESSED = {"result_extension": ".nrrd", "result_compress": False}
"""The result is read at once, so compressing it would only take time."""
_REPORTED = ("refined", "overruled", "range", "seconds", "mark", "device", "mode")
"""Fields of the report in the answer's header."""
_MAX_HEADER = 3000
"""Max characters of the header: proxies refuse answers with more than 4 KiB of headers."""


@router.post("/refine", summary="Correct one organ by marks", response_class=Response)
async def refine(
    request: Request,
    image: str,
    label: Annotated[int, Query(ge=1, le=255, description="number of the organ")],
    params: Annotated[str, Form(description="JSON: boxes, foreground, background, reach")],
    mask: Annotated[UploadFile | None, File(description="the whole label map, packed")] = None,
    model: str = "medsam2",
    mode: str = "",
    image_mark: ImageMark = "",
) -> Response:
    """Returns the organ's new mask, 0 or 1, as a packed label map. The header `X-Report` contains parts of the report as JSON.

    Marks are voxel indices (x, y, z) of the volume in the viewer. The organ's mask in `mask` is refined. If it has no voxel of
    the organ, the marks alone define the organ. 409 if the case has another image than the one with the `image_mark`.
    """
    instance = app_instance()
    check_model(model, instance._infers)
    task = instance._infers[model]
    if "mask" not in getattr(task, "inputs", ()):
        raise InputError(model, "refines no mask.", "Use the model medsam2.")
    if label not in organ_table().indices:
        raise InputError(str(label), "is not the number of an organ.", "Use the numbers that /info lists.")
    note(request.scope, details={"model": model})
    given: GivenMask | None = None
    try:
        case = await opened(image)
        await run_in_threadpool(case.check_image, image_mark)
        options = await run_in_threadpool(_options, task, model, json_object(params), label, mode, case)
        given = await in_turn(lambda: _given(case, mask, label))
        requested = {**options, **_UNCOMPRESSED, "model": model, "image": image}
        requested |= {} if given is None else {"given_mask": given}
        job = submitted(request, task, image, requested, None, given)
    except BaseException:  # also if the request is cancelled
        discard(given)
        raise
    result = await outcome(request, job)
    answer = await in_turn(lambda: _answer(case, result))
    answer.headers["X-Job-ID"] = job.id
    return answer


def _options(task: Any, model: str, sent: Mapping[str, Any], label: int, mode: str, case: AnnotatedCase) -> dict[str, Any]:
    """Returns the checked options of the model, with marks as voxel indices of the CT's file.

    Raises:
        InputError: a mark or an option cannot be used.
    """
    known = {key: sent[key] for key in _SENT if sent.get(key) is not None}
    known |= {"label": organ_table()[label].name} | ({"mode": mode} if mode else {})
    options = infer_parameters(model, task, known)
    for key in _MARKS:
        if key in options:
            options[key] = case.order.to_file_indices(options[key])
    return options


def _given(case: AnnotatedCase, mask: UploadFile | None, label: int) -> GivenMask | None:
    """Returns the mask to refine as a file on the grid of the CT's file; None if it has no voxel of the organ.

    Raises:
        MalformedError: the mask is no label map of the case.
    """
    if mask is None:
        return None
    body = received(mask, ".gz")
    try:
        labels = unpacked(body, case.order.grid.shape)
    finally:
        body.unlink(missing_ok=True)
    if not (labels == label).any():
        return None
    file = scratch_file(".nii")
    try:
        write_volume(case.order.to_volume(labels), file, compress=False)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return GivenMask(file, "viewer", uploaded=True)


def _answer(case: AnnotatedCase, result: Mapping[str, Any]) -> Response:
    file = Path(result["file"])
    try:
        labels = case.order.read_labels(file)
    finally:
        file.unlink(missing_ok=True)
    return packed_answer((labels > 0).astype("uint8"), **{"X-Report": _header(result["params"]["report"])})


def _header(report: Mapping[str, Any]) -> str:
    """Returns the main fields of a report as JSON in ASCII. Fields that do not fit are left out."""
    found: dict[str, Any] = {}
    for key in _REPORTED:
        value = report.get(key)
        if key == "refined" and isinstance(value, Mapping):
            value = {part: value[part] for part in ("added", "removed") if part in value}
        if value is not None and len(_ascii({**found, key: value})) <= _MAX_HEADER:
            found[key] = value
    return _ascii(found)


def _ascii(content: Mapping[str, Any]) -> str:
    return "".join(one if one.isascii() else f"\\u{ord(one):04x}" for one in to_json(content) if ord(one) < 0x10000)
