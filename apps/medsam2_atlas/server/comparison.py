"""`/compare/case` and `/compare/picture`: what the page `/compare` shows besides the figures of `/annotation/compare`.

Other than `/annotation/case`, they do not count as opening the case.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from monailabel.interfaces.utils.app import app_instance
from starlette.responses import Response

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.evaluation.label_overlap import Overlap
from medsam2_atlas.studies.difference_pictures import Shown, difference_picture
from server.access import user_of
from server.annotation import case_of, opened
from server.audit import note
from server.in_turn import ANNOTATION, in_turn_if_awaited
from tasks.annotated_case import AnnotatedCase, Chosen, organs
from tasks.case_states import viewer_path

router = APIRouter(prefix="/compare", tags=["Annotation"])

Label = Annotated[str, Query(pattern=r"^[^/]{1,100}/[0-9]{1,9}$", description="a version, written as TAG/VERSION")]


@router.get("/case", summary="A case whose label maps can be compared")
def show_case(study: str) -> dict[str, Any]:
    """Returns the case's title, its versions and predictions (the newest first), the organs, and its address in the viewer."""
    case = case_of(study)
    viewer = viewer_path(app_instance().datastore(), study)
    return {
        "study": study,
        "title": case.title,
        "versions": case.versions() if case.fetched else [],
        "organs": organs(),
        "viewer": viewer.lstrip("/"),
    }


@router.get("/picture", summary="A slice on which two label maps of a case differ", response_class=Response)
async def show_picture(
    request: Request,
    study: str,
    first: Label,
    second: Label,
    organ: Annotated[int, Query(ge=1, le=255)],
    slice: Annotated[int, Query(ge=0, le=100_000, description="number of the slice in the viewer, from 0")],
) -> Response:
    """Returns a PNG file with three panels around the organ: the first label map, the second one, and their differences."""
    case = await opened(study)
    chosen = Chosen.parse(first), Chosen.parse(second)
    person, instance = user_of(request).id, app_instance()
    for one in chosen:
        note(request.scope, study=study, tag=one.tag, version=one.version)

    def draw() -> Response:
        known = "/".join(
            (case.image_mark, *(f"{one.tag}/{case.version(one).sha256}" for one in chosen), str(instance._models.hu))
        )

        def load() -> tuple[Any, Any, Any, Any]:
            labels = [case.labels(one, person)[0] for one in chosen]
            return case.image, case.order, labels[0], labels[1]

        asked = Shown(organ, slice)
        store, kept, worst = instance.datastore().store, instance.worklist.pictures.kept, partial(_worst, case)
        file = difference_picture(store, kept, study, known, asked, load, worst, instance._models.hu)
        return FileResponse(file, media_type="image/png")

    if organ not in {about["label"] for about in organs()}:
        raise InputError("organ", f"{organ} is unknown.", "Send the number of an organ; see /compare/case.")
    return await in_turn_if_awaited(request, draw, ANNOTATION) or Response(status_code=204)


def _worst(case: AnnotatedCase, first: Any, second: Any) -> list[Shown]:
    """Returns the slice of each organ on which two label maps `[z, y, x]` differ most."""
    found = Overlap.of(first, second, case.order.grid.voxel_ml).differences(1)
    return [Shown(organ, figures["worst"][0]) for organ, figures in found.items() if figures["worst"]]
