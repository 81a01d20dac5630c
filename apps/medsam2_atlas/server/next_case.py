"""`/activelearning`: the next case to annotate."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from monailabel.endpoints import activelearning
from monailabel.interfaces.utils.app import app_instance

from server.access import user_of
from server.forms import LimitedRoute
from server.parameters import sample_parameters
from server.people import LOCAL
from tasks.known import check_strategy

router = APIRouter(prefix="/activelearning", tags=["ActiveLearning"], route_class=LimitedRoute)


@router.post("/{strategy}", summary="The next case, and why")
def next_case(request: Request, strategy: str, params: Annotated[dict[str, Any] | None, Body()] = None) -> dict[str, Any]:
    """Returns the case's `id`, the reason (`why`) and its stored information; an empty object if all cases are done.

    `taken`: whether it is another person's now, because no other case is left. `claimed`: who works on it, since when; missing
    on a server without logins. `path` is empty, because clients download the image.
    """
    instance = app_instance()
    check_strategy(strategy, instance._strategies)
    options = sample_parameters(instance, strategy, params or {})
    user = user_of(request)
    known = user.id != LOCAL.id  # without logins, the ids of clients in the image's information distinguish them
    # The case is claimed before it is fetched from a PACS, so that nobody else gets it meanwhile.
    options |= {"person": user.id, "person_name": user.name, "claim": known}
    sample: dict[str, Any] = activelearning.sample(strategy, options, user.name)
    if sample and known:
        instance.datastore().claims.open(str(sample["id"]), user.id, user.name)
    return {**sample, "path": ""} if sample else {}
