"""`/annotation/changes` and `/annotation/submit`: what an annotator would sign off, and signing it off.

A label map is signed off only if the newest final version is the one that the person has seen (`known`), or one that they want
to replace (`over`). The base does not tell which one they have seen: a prediction may have been made after it. A label map that
is empty or lacks organs of the newest version needs the person's confirmation (`confirm`). The store checks both again under
its lock, so two people who submit at the same time cannot replace each other's work unseen.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from monailabel.interfaces.utils.app import app_instance
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from medsam2_atlas.base.errors import ConfirmError, ConflictError, InputError, MedSAM2AtlasError
from medsam2_atlas.base.json_text import plain
from medsam2_atlas.base.scratch import scratch_file
from medsam2_atlas.evaluation.label_overlap import Overlap
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import write_volume
from medsam2_atlas.storage import FINAL, Version
from server import errors
from server.access import user_of
from server.annotation import PACKED_REQUEST, BaseTag, BaseVersion, ImageMark, Known, base_of, opened
from server.answers import JsonAnswer
from server.audit import note
from server.forms import LimitedRoute
from server.in_turn import in_turn
from server.packed_bodies import packed_body, unpacked
from server.people import User
from tasks.annotated_case import AnnotatedCase, Chosen

router = APIRouter(prefix="/annotation", tags=["Annotation"], route_class=LimitedRoute)

log = logging.getLogger(__name__)


MAX_ACTIVE = 7 * 86400
"""Max seconds of activity that a client may send with a label map."""


class Confirm(str, Enum):
    """What a person has confirmed: an empty label map, one that lacks organs of the newest version, or both."""

    empty = "empty"
    vanished = "vanished"
    both = "both"


@router.post("/changes", summary="What a label map would change", openapi_extra=PACKED_REQUEST)
async def show_changes(
    request: Request, image: str, base_tag: BaseTag = "", base_version: BaseVersion = None
) -> dict[str, Any]:
    """Returns the volume of each organ, and the added and removed volume since the base version, in ml.

    `vanished` lists organs of the newest final version that the label map lacks. Nothing is saved.
    """
    person, base = user_of(request).id, base_of(base_tag, base_version)
    case = await opened(image)
    async with packed_body(request) as body:

        def work() -> dict[str, Any]:
            sent = unpacked(body, case.order.grid.shape)
            before = None if base is None else case.labels(base, person)[0]
            overlap = Overlap.of(before, sent, case.order.grid.voxel_ml)
            present = overlap.second_organs
            vanished = sorted(_organs_of(case, case.newest_final()) - present)
            changes = {str(k): change for k, change in overlap.changes().items()}
            return {"organs": changes, "empty": not present, "vanished": vanished}

        return await in_turn(work)


@router.post(
    "/submit", status_code=201, summary="Sign off a label map", response_class=JsonAnswer, openapi_extra=PACKED_REQUEST
)
async def submit(
    request: Request,
    image: str,
    base_tag: BaseTag = "",
    base_version: BaseVersion = None,
    checked: Annotated[str, Query(description="numbers of the organs that the person has looked at, separated by commas")] = "",
    confirm: Annotated[Confirm | None, Query(description="what the person has confirmed")] = None,
    over: Annotated[int | None, Query(ge=1, le=10**9, description="newer version that the person wants to replace")] = None,
    known: Known = None,
    image_mark: ImageMark = "",
    active_seconds: Annotated[
        float | None, Query(ge=0, le=MAX_ACTIVE, description="time for which the person was active")
    ] = None,
    organ_seconds: Annotated[str, Query(description="the same by organ, such as 6:120,11:35.5")] = "",
) -> Response:
    """Saves a label map as the next final version and discards the person's draft.

    409 with `conflict` (version, author, time) if a newer final version than the `known` one exists; with its number as
    `over`, both are kept, the sent one as the newest. 409 with `confirm` (`empty` or `vanished`) and `organs` if the person has
    to confirm. 409 without both if the case has another image than the one with the `image_mark`.
    """
    base, by_organ = base_of(base_tag, base_version), _seconds(organ_seconds)
    sent = _Sent(base, tuple(_numbers(checked)), confirm, over, known, image_mark, active_seconds, by_organ)
    case = await opened(image)
    await run_in_threadpool(case.check_image, image_mark)
    file = await run_in_threadpool(scratch_file, ".nii.gz")
    try:
        async with packed_body(request) as body:
            empty = await in_turn(lambda: _written(case, body, file))
        return await run_in_threadpool(_submit, request, case, file, empty, sent)  # not in turn: it may wait for the PACS
    finally:
        file.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Sent:
    """The parameters of a submission; `submit` describes them."""

    base: Chosen | None
    checked: tuple[int, ...]
    confirm: Confirm | None
    over: int | None
    known: int | None
    image_mark: str
    active_seconds: float | None
    organ_seconds: dict[int, float]


def _written(case: AnnotatedCase, body: Path, file: Path) -> bool:
    """Writes the label map in a body on the grid of the CT's file; returns whether it is empty.

    Raises:
        MalformedError: the body is no label map of the case.
    """
    labels = unpacked(body, case.order.grid.shape)
    write_volume(case.order.to_volume(labels), file)
    return not labels.any()


def _submit(request: Request, case: AnnotatedCase, file: Path, empty: bool, sent: _Sent) -> Response:
    user, image, base, confirm = user_of(request), case.study, sent.base, sent.confirm
    if base is not None:
        case.version(base)  # refuses a base that does not exist
    case.check_image(sent.image_mark)  # again, because sending the label map takes time
    newest = case.newest_final()
    if newest is not None and newest.number not in (sent.over, _known(sent, newest)):
        return _conflict(image, newest)
    agreed = confirm is Confirm.both or confirm is (Confirm.empty if empty else Confirm.vanished)
    info = {
        "user": user.name,
        "from": "viewer",
        "base": None if base is None else {"tag": base.tag, "version": base.version},
        "checked": list(sent.checked),
        "work": _work(image, user, sent),
        "expected_version": 0 if newest is None or newest.removed else newest.number,
        "confirm": agreed,
    }
    try:
        saved = app_instance().datastore().save_person_label(image, file, FINAL, info, user.id)
    except ConfirmError as error:
        kind = Confirm.empty if empty else Confirm.vanished
        return _refused(error, confirm=kind.value, organs=_numbers_of(error.organs))
    except ConflictError:
        now = case.newest_final()
        if now is None or (newest is not None and now.number == newest.number):
            raise  # another reason, such as a replaced image
        return _conflict(image, now)
    version = saved.label.version
    note(request.scope, version=version.number)
    _discard_draft(image, user)
    app_instance().on_save_label(image, image)
    pacs = {"pacs": plain(version.info["pacs"])} if "pacs" in version.info else {}
    return JsonAnswer({"tag": FINAL, "version": version.number, **pacs}, 201)


def _work(image: str, user: User, sent: _Sent) -> dict[str, Any]:
    """Returns the seconds for which the person was active on the case: as the viewer sent them, or else as the server counted.

    `organs` contains the viewer's seconds by organ number, if it sent them.
    """
    if sent.active_seconds is not None:
        seconds, how = sent.active_seconds, "viewer"
    else:
        seconds, how = app_instance().datastore().claims.active_seconds(image, user.id), "server"
    organs = {"organs": {str(organ): value for organ, value in sent.organ_seconds.items()}} if sent.organ_seconds else {}
    return {"seconds": round(seconds, 1), "counted_by": how, **organs}


def _known(sent: _Sent, newest: Version) -> int:
    """Returns the number of the newest final version that the person has seen. Clients may send only the base."""
    if sent.known is not None:
        return sent.known
    if sent.base is None:
        return newest.number if newest.removed else 0
    return (sent.base.version or 0) if sent.base.tag == FINAL else 0


def _organs_of(case: AnnotatedCase, version: Version | None) -> set[int]:
    """Returns the numbers of the organs in a final version; empty if there is none."""
    if version is None or version.removed:
        return set()
    if version.organs is not None:
        return {*version.organs}
    labels, _ = case.labels(Chosen(FINAL, version.number), "")
    return Overlap.of(None, labels, 1.0).second_organs


def _numbers_of(names: Sequence[str]) -> list[int]:
    """Returns the numbers of organs; label maps of other programs may have numbers that are not in the table."""
    known = {organ.name: organ.index for organ in organ_table().organs}
    return [known[name] if name in known else int(name) for name in names]


def _conflict(image: str, newest: Version) -> Response:
    what = "was removed" if newest.removed else "has a newer final version"
    by = f" by {newest.author}" if newest.author else ""
    error = ConflictError(image, f"{what}{by} ({newest.number}, {newest.made}).", "Look at it, or keep yours as a new version.")
    about = {"version": newest.number, "author": newest.author, "time": newest.made, "removed": newest.removed}
    return _refused(error, conflict=about)


def _refused(error: ConflictError, **more: Any) -> Response:
    """Returns a refusal with additional fields beside the fields of every error."""
    reason = "confirm" if isinstance(error, ConfirmError) else "conflict"
    message = f"{error.subject}: {error.problem}"
    content = errors.body(409, message, error.remedy, type(error).__name__, reason=reason)
    return JsonAnswer(content | more, 409)


def _discard_draft(image: str, user: User) -> None:
    try:
        app_instance().drafts.remove(image, user.id)
    except MedSAM2AtlasError as error:  # the label map is saved; the draft is offered again
        log.warning("a draft cannot be discarded: %s", error)


def _numbers(text: str) -> list[int]:
    """Returns organ numbers in ascending order.

    Raises:
        InputError: the text contains anything else than numbers of organs.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(text) > 1000 or not {*parts} <= {str(number) for number in organ_table().indices}:
        raise InputError("checked", "is not a list of organ numbers.", "Send numbers of organs, separated by commas.")
    return sorted({int(part) for part in parts})


def _seconds(text: str) -> dict[int, float]:
    """Returns seconds by organ number.

    Raises:
        InputError: the text is no list of organ numbers with seconds.
    """
    found: dict[int, float] = {}
    for part in filter(None, (part.strip() for part in text[:1000].split(","))):
        match = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,6}(?:\.[0-9]{1,3})?)", part)
        if match is None or int(match[1]) not in organ_table().indices or float(match[2]) > MAX_ACTIVE:
            raise InputError("organ_seconds", "is not a list of organ numbers with seconds.", "Send them as 6:120,11:35.5.")
        found[int(match[1])] = float(match[2])
    return found
