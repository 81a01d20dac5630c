"""`/annotation`: what the annotator's viewer loads and keeps: a case, its label maps, comparisons, and the person's draft.

Label maps travel as packed voxels in the order in which viewers load the CT as DICOM instances (`imaging.dicom_order`), so that
a browser needs no parser of image files. Voxel indices and slices in requests and answers are those of that volume.

Work on whole label maps is done in turn (`in_turn`), so that many requests need the memory of only one CT. A series of a PACS
is fetched before (`opened`), so that nobody's turn waits for the PACS.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from monailabel.interfaces.utils.app import app_instance
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, NotFoundError
from medsam2_atlas.evaluation.agreement import difference_map
from medsam2_atlas.evaluation.label_overlap import Overlap
from medsam2_atlas.storage import tag_name
from server.access import user_of
from server.assignments import comment_of, may_accept, opened_by
from server.audit import note
from server.context import mention
from server.forms import LimitedRoute
from server.in_turn import in_turn
from server.packed_bodies import PACKED, packed_answer, packed_body, unpacked
from server.people import User
from tasks.annotated_case import AnnotatedCase, Chosen, has_demo_weights, offered_model, organs, start_of
from tasks.case_states import viewer_path
from tasks.known import check_study

router = APIRouter(prefix="/annotation", tags=["Annotation"], route_class=LimitedRoute)

log = logging.getLogger(__name__)

_NEXT = "disagreement"
"""The strategy for the next case; without measures, it gives the first case by name."""
_WORST_SLICES = 5
"""Max number of slices that a comparison lists for each organ."""
_PACKED_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {PACKED: {"schema": {"type": "string", "format": "binary"}}},
        "description": "The label map: gzip of its voxels [z, y, x], one byte each. The header `X-Shape` contains `z,y,x`.",
    }
}
PACKED_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {PACKED: {"schema": {"type": "string", "format": "binary"}}},
        "description": "A label map: gzip of the voxels [z, y, x] of the whole volume in the viewer, one byte each.",
    }
}
"""The description of a packed label map for OpenAPI, because the handlers read the body themselves."""

BaseTag = Annotated[str, Query(description="tag of the version that the person began with; empty for an empty label map")]
BaseVersion = Annotated[int | None, Query(ge=1, le=10**9, description="number of that version")]
Known = Annotated[int | None, Query(ge=0, le=10**9, description="newest final version that the person has seen; 0 for none")]
ImageMark = Annotated[
    str, Query(pattern=r"^([0-9a-f]{64})?$", description="image that was drawn on: `image_mark` of the case; empty if unknown")
]


@router.get("/case", summary="A case for the annotator: versions, organs, models, the draft, the next case")
def show_case(request: Request, image: str = "", study: str = "", series: str = "") -> dict[str, Any]:
    """Returns the case `image`, or the one of a DICOM study and series.

    `versions`: all final versions and stored predictions, the newest first; `start`: the one to open. `final`: number of the
    newest final version, which may be a removal; 0 if there never was one. `image_mark` changes with the image; it is empty
    for a series that has not been fetched. `draft`: the person's own unsaved label map, with a `problem` if it cannot be
    loaded. `offered_model`: the model to offer first. `phantom`: true for the sample CTs, null if it is unknown.

    `claimed`: who works on the case, since when, and whether it is the person (`mine`). Opening a case that is not signed off,
    or that was returned to the person, claims it if nobody else does (`datastores.case_claims`). `comment`: with what a
    reviewer returned the newest final version; null if it was not returned. `review`: whether the review stage is on, and
    whether the person may accept or return the newest final version.
    """
    instance = app_instance()
    name = image or _study_of(study, series)
    note(request.scope, study=name)
    store = instance.datastore().store
    case, models, missing, user = case_of(name), instance._tasks, instance._missing(), user_of(request)
    demo = has_demo_weights(instance._all["medsam2"])
    fetched = case.fetched  # a series of a PACS that nobody has used yet has no label maps here, and is not fetched now
    phantom = case.phantom if fetched else None
    offered = offered_model(models, missing, atlas_first=demo and not phantom)
    versions = case.versions() if fetched else []
    final = case.newest_final() if fetched else None
    claimed = opened_by(instance.datastore(), name, user, final)
    return {
        "image": name,
        "title": case.title,
        "demo_weights": demo,
        "phantom": phantom,
        "offered_model": offered,
        "missing": {model: missing[model] for model in instance._all if model in missing},
        "organs": organs(),
        "versions": versions,
        "start": start_of(versions, offered),
        "final": 0 if final is None else final.number,
        "image_mark": case.image_mark if fetched else "",
        "draft": case.draft(user.id) if fetched else None,
        "comment": comment_of(final),
        "claimed": None if claimed is None else {**claimed.as_dict(), "mine": claimed.id == user.id},
        "review": {"on": store.review.on, "may_accept": may_accept(store, name, user)},
        "next": _next(instance, name, user),
    }


@router.get(
    "/label", summary="A label map, or the person's draft, for a viewer", responses=_PACKED_ANSWER, response_class=Response
)
async def show_label(
    request: Request,
    image: str,
    tag: str,
    version: Annotated[int | None, Query(ge=1, le=10**9)] = None,
) -> Response:
    """Returns the voxels of a version. Without `version`, returns the newest version, or the draft if the tag is `draft`."""
    person, chosen, case = user_of(request).id, Chosen(tag, version), await opened(image)

    def load() -> Response:
        labels, number = case.labels(chosen, person)
        note(request.scope, tag=tag, version=number)
        return packed_answer(labels, **({} if number is None else {"X-Version": str(number)}))

    return await in_turn(load)


@router.put(
    "/draft", status_code=204, summary="Keep the unsaved label map", response_class=Response, openapi_extra=PACKED_REQUEST
)
async def keep_draft(
    request: Request,
    image: str,
    base_tag: BaseTag = "",
    base_version: BaseVersion = None,
    known: Known = None,
    image_mark: ImageMark = "",
) -> Response:
    """Replaces the person's draft of the case. It is on disk when the answer is sent; `server_drafts_mb` limits its size.

    409 if the case has another image than the one with the `image_mark`; the earlier draft stays.
    """
    user, base = user_of(request), base_of(base_tag, base_version)
    kept = None if base is None else (tag_name(base.tag), base.version or 0)
    case = await opened(image)
    await run_in_threadpool(case.check_image, image_mark)
    shape = case.order.grid.shape
    async with packed_body(request) as body:

        def keep() -> None:
            unpacked(body, shape)
            app_instance().drafts.save(image, user.id, body, shape, kept, known=known, drawn_on=image_mark)
            app_instance().datastore().claims.touch(image, user.id, user.name)

        await in_turn(keep)
    return Response(status_code=204)


@router.delete("/draft", status_code=204, summary="Discard the draft", response_class=Response)
def discard_draft(request: Request, image: str) -> Response:
    """Removes the person's draft of the case, if there is one."""
    if case_of(image).fetched:
        app_instance().drafts.remove(image, user_of(request).id)
    return Response(status_code=204)


@router.get("/compare", summary="Figures of two label maps of a case, by organ")
async def compare(request: Request, image: str, first: str, second: str) -> dict[str, Any]:
    """Returns Dice (0..1), both volumes in ml and the slices that differ most (`worst`, the worst first) of each organ.

    `first` and `second` are written as TAG/VERSION; `draft` is the person's draft.
    """
    case = await opened(image)

    def work() -> dict[str, Any]:
        one, other = _pair(request, case, first, second)
        found = Overlap.of(one, other, case.order.grid.voxel_ml).differences(_WORST_SLICES)
        return {"organs": {str(k): figures for k, figures in found.items()}}

    return await in_turn(work)


@router.get(
    "/compare/label", summary="The map of differences of two label maps", responses=_PACKED_ANSWER, response_class=Response
)
async def compare_map(request: Request, image: str, first: str, second: str) -> Response:
    """Returns 1 at voxels that only the first label map assigns to an organ, 2 only the second, 3 both to different organs."""
    case = await opened(image)
    return await in_turn(lambda: packed_answer(difference_map(*_pair(request, case, first, second))))


def case_of(image: str) -> AnnotatedCase:
    """Returns a case.

    Raises:
        NotFoundError: the study does not exist.
    """
    instance = app_instance()
    datastore = instance.datastore()
    check_study(image, datastore)
    return AnnotatedCase(datastore, instance.drafts, image)


async def opened(image: str) -> AnnotatedCase:
    """Returns a case whose CT is on this server; a series of a PACS is fetched first.

    Raises:
        NotFoundError: the study does not exist.
        InputError: its CT cannot be used.
        UnavailableError: the PACS does not answer.
    """

    def fetched() -> AnnotatedCase:
        case = case_of(image)
        _ = case.order
        return case

    return await run_in_threadpool(fetched)


def base_of(tag: str, version: int | None) -> Chosen | None:
    """Returns the version that a person began with; None if they began with an empty label map.

    Raises:
        InputError: only tag or version is given.
    """
    if bool(tag) != (version is not None):
        raise InputError("base", "needs tag and version.", "Send both base_tag and base_version, or none of them.")
    return Chosen(tag, version) if tag else None


def _pair(request: Request, case: AnnotatedCase, first: str, second: str) -> tuple[Any, Any]:
    """Returns two label maps `[z, y, x]` of a case, each named as TAG/VERSION."""
    loaded = []
    for chosen in (Chosen.parse(first), Chosen.parse(second)):
        labels, number = case.labels(chosen, user_of(request).id)
        note(request.scope, study=case.study, tag=chosen.tag, version=number)
        loaded.append(labels)
    return loaded[0], loaded[1]


def _study_of(study: str, series: str) -> str:
    """Returns the case of a DICOM series. A layer of the server may already have replaced UIDs of a folder by the case's name.

    Raises:
        InputError: the request names no case.
        NotFoundError: the series is unknown, or belongs to another study.
    """
    if not series:
        raise InputError("image", "is missing.", "Name the case, or its DICOM study and series.")
    datastore = app_instance().datastore()
    check_study(series, datastore)
    if study and study not in (series, datastore.get_image_info(series).get("StudyInstanceUID")):
        raise NotFoundError(repr(series[:80]), "belongs to another study.", "Open the series in its own study.")
    return series


def _next(instance: Any, study: str, user: User) -> dict[str, Any] | None:
    """Returns the next case and the reason for it; None if there is none. The case is not assigned to the person yet."""
    datastore = instance.datastore()
    request = {"strategy": _NEXT, "except": study, "client_id": user.name, "person": user.id, "person_name": user.name}
    try:
        chosen = instance._strategies[_NEXT](request, datastore)
    except MedSAM2AtlasError as error:  # the PACS does not answer; the case itself can be shown
        log.info("the next case is unknown: %s", error)
        return None
    if not chosen:
        return None
    mention(chosen["id"])
    return {"image": chosen["id"], "why": chosen["why"], "viewer": viewer_path(datastore, chosen["id"]) or None}
