"""`/worklist/next`, `/worklist/claim`, `/worklist/assign`, `/worklist/figures`: who works on which case, and what was done.

Claims and assignments are advice: they order the next cases and tell people about each other. They never block saving; versions
and checks of conflicts protect the label maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from monailabel.interfaces.utils.app import app_instance

from datastores.case_claims import Claim
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.access.token_entries import shown_name
from medsam2_atlas.base.errors import AccessError, InputError, NotFoundError
from medsam2_atlas.storage import FINAL, Person, StudyStore, Version, may_judge
from medsam2_atlas.team import team_figures
from server.access import Access, user_of
from server.audit import note
from server.context import mention
from server.forms import LimitedRoute
from server.people import User
from tasks.annotated_case import title_of
from tasks.case_states import viewer_path
from tasks.known import check_strategy, check_study
from tasks.next_case import Return, is_next_of

router = APIRouter(prefix="/worklist", tags=["Worklist"], route_class=LimitedRoute)

_STRATEGY = "disagreement"
"""The strategy of the next case by default; without measures, it gives the first case by name."""
_Study = Annotated[str, Body(embed=True, description="name of the case")]


@router.post("/next", summary="The next case of the person, and why; claims it")
def next_case(
    request: Request,
    strategy: Annotated[str | None, Body(description="strategy of active learning; by default, disagreement")] = None,
    without: Annotated[str | None, Body(alias="except", description="a case that is not chosen")] = None,
) -> dict[str, Any]:
    """Returns the case (`study`), the reason (`why`), its link (`viewer`) and its claim; an empty object if all are done.

    Cases that a reviewer returned to the person come first, then those with unsaved work of the person, then those assigned to
    the person, then the strategy's. Cases that others work on or that are assigned to others come last; such a case keeps its
    claim.
    """
    chosen = _chosen(user_of(request), strategy, without, claim=True)
    if chosen is None:
        return {}
    note(request.scope, study=str(chosen["id"]))
    return {**_shown(chosen), "claimed": chosen["claimed"]}


@router.get("/next", summary="The next case of the person, and why; claims nothing")
def show_next_case(
    request: Request,
    strategy: Annotated[str | None, Query(description="strategy of active learning; by default, disagreement")] = None,
    without: Annotated[str | None, Query(alias="except", description="a case that is not chosen")] = None,
) -> dict[str, Any]:
    """Returns the case that `POST /worklist/next` would choose now, without `claimed`; an empty object if all are done."""
    chosen = _chosen(user_of(request), strategy, without)
    return {} if chosen is None else _shown(chosen)


@router.post("/claim", summary="Claim a case")
def claim_case(request: Request, study: _Study) -> dict[str, Any]:
    """Returns the claim: the person, and since when; null if the disk fails, so that others do not see it.

    409 with the name and the time if another person works on the case.
    """
    user, datastore = user_of(request), _datastore()
    note(request.scope, study=study)
    mention(study)
    check_study(study, datastore)
    claim = datastore.claims.claim(study, user.id, user.name)
    return {"claimed": None if claim is None else claim.as_dict()}


@router.delete("/claim", summary="Release a case")
def release_case(request: Request, study: str) -> dict[str, Any]:
    """Ends the person's claim of a case; a reviewer also ends those of others. Returns who works on the case now."""
    user, datastore = user_of(request), _datastore()
    check_study(study, datastore)
    claim = datastore.claims.of(study)
    own = any(one.id == user.id for one in datastore.claims.all().opened(study))
    if claim is not None and claim.id != user.id and not own and not user.may("reviewer"):
        raise AccessError(study, f"is being edited by {claim.person or 'another person'}.", "Ask that person, or a reviewer.")
    if claim is not None and (claim.id == user.id or user.may("reviewer")):
        note(request.scope, details={"of": claim.person})
        datastore.claims.release(study, claim.id)
    else:
        datastore.claims.release(study, user.id)
    left = datastore.claims.of(study)
    return {"claimed": None if left is None else left.as_dict()}


@router.post("/assign", summary="Assign a case to a person, or remove its assignment")
def assign_case(
    request: Request,
    study: _Study,
    person: Annotated[str, Body(embed=True, description="name of a user; empty to remove the assignment")],
) -> dict[str, Any]:
    """Returns the name of the person (`assigned`), empty if the assignment was removed.

    Users of the token file must exist; names of an issuer's users are not checked, because they are not known before they log
    in.
    """
    user, datastore = user_of(request), _datastore()
    note(request.scope, study=study, details={"person": person[:100]})
    mention(study)
    check_study(study, datastore)
    if person and shown_name(person) != person:
        raise InputError("person", "is not the name of a user.", "Send the name as it is shown.")
    access: Access = request.app.state.access
    if person and not access.may_be_user(person):
        raise NotFoundError(repr(person), "is not a user of this server.", "Choose a name in the token file.")
    datastore.store.assignments.assign(study, person, user.name)
    return {"assigned": person}


@router.get("/figures", summary="Figures of the team's work")
def figures(
    request: Request, days: Annotated[int, Query(ge=1, le=3660, description="length of the period up to today")] = 30
) -> dict[str, Any]:
    """Returns sign-offs, active time, edits, Dice of predictions and agreement; docs/team-figures.md defines them.

    Annotators get the figures of the team without the names and figures of other people; reviewers get all.
    """
    user, now = user_of(request), datetime.now().astimezone()
    since = (now - timedelta(days=days)).astimezone(timezone.utc).date().isoformat()  # a day more: days are those of the server
    datastore = _datastore()
    found = team_figures(datastore.figures.records(since), days, now, None if user.may("reviewer") else user.id or user.name)
    for pair in found["agreement"]:
        pair["title"] = title_of(datastore, pair["study"])
    return found


def opened_by(datastore: StudyDatastore, study: str, user: User, final: Version | None) -> Claim | None:
    """Records that a person has opened a case in a viewer; returns who works on it.

    The viewer of a person who has just signed the case off, accepted it or returned it asks for it once more. That person has
    ended the work, and is not listed as looking at the case, unless the work goes on.

    Args:
        datastore: the studies.
        study: name of the case.
        user: the person.
        final: the newest version under `final`, which may be a removal; None if there never was one.
    """
    signed_off = final is not None and not final.removed
    if final is not None and final.returned:
        signed_off = not is_next_of(Person(user.name, user.id), Return.of(final), datastore.store.assignments.of(study))
    ended = signed_off and final is not None and user.id in _ended_by(final)
    if not ended or any(one.id == user.id for one in datastore.claims.all().opened(study)):
        datastore.claims.open(study, user.id, user.name, works=not signed_off)
    return datastore.claims.of(study)


def _ended_by(final: Version) -> set[str]:
    """Returns the ids of the people who have ended their work on a signed-off version: its author or its reviewer."""
    if final.returned:
        return {final.returned.get("by_id", "")}
    return {final.author_id, final.accepted.get("by_id", "")}


def comment_of(final: Version | None) -> dict[str, str] | None:
    """Returns who returned a version, when, and the comment; None if it was not returned."""
    found = final.returned if final is not None else {}
    return {"by": found.get("by", ""), "time": found.get("at", ""), "text": found.get("comment", "")} if found else None


def may_accept(store: StudyStore, study: str, user: User) -> bool:
    """Returns whether a person may accept or return the newest final version of a case now."""
    if not (store.review.on and user.may("reviewer")):
        return False
    try:
        versions = store.versions(study, FINAL)
    except NotFoundError:
        return False
    return not versions[-1].accepted and may_judge(versions, Person(user.name, user.id))


def _chosen(user: User, strategy: str | None, without: str | None, *, claim: bool = False) -> dict[str, Any] | None:
    """Returns the next case of a person, as `NextCase` does; None if all are done."""
    instance = app_instance()
    name = strategy or _STRATEGY
    check_strategy(name, instance._strategies)
    person = {"client_id": user.name, "person": user.id, "person_name": user.name}
    asked = {"strategy": name, "except": without, "claim": claim, **person}
    chosen: dict[str, Any] | None = instance._strategies[name](asked, instance.datastore())
    if chosen:
        mention(str(chosen["id"]))
    return chosen


def _shown(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the next case for a client: its name, the reason and its link."""
    study = str(chosen["id"])
    return {"study": study, "why": chosen["why"], "viewer": viewer_path(_datastore(), study)}


def _datastore() -> StudyDatastore:
    datastore: StudyDatastore = app_instance().datastore()
    return datastore
