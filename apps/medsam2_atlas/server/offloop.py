"""Moves MONAI Label's handlers from the event loop to the thread pool.

They are declared `async` but compute or read files without ever waiting. On the event loop, one of them would block all other
requests. FastAPI runs plain functions in threads.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from monailabel.endpoints.user.auth import DEFAULT_USER

from server.answers import JsonAnswer
from server.forms import LimitedRoute


def off_the_loop(router: APIRouter, without: frozenset[tuple[str, str]] = frozenset()) -> APIRouter:
    """Returns a router with the same routes, whose handlers run in the thread pool.

    Args:
        router: one of MONAI Label's routers.
        without: routes (method, path) to omit.
    """
    result = APIRouter(route_class=LimitedRoute)
    for route in router.routes:
        if not isinstance(route, APIRoute):
            continue
        methods = sorted(method for method in route.methods or () if (method, route.path) not in without)
        if methods:
            result.add_api_route(
                route.path,
                _threaded(route.endpoint),
                methods=methods,
                summary=route.summary,
                tags=route.tags,
                responses=route.responses,
                include_in_schema=route.include_in_schema,
                deprecated=route.deprecated,
            )
    return result


def _threaded(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a handler as a plain function, without MONAI Label's own user: the access check has identified the user."""
    signature = inspect.signature(endpoint)
    asks_user = "user" in signature.parameters

    @functools.wraps(endpoint)
    def call(*args: Any, **options: Any) -> Any:
        if asks_user:
            options["user"] = DEFAULT_USER
        result = endpoint(*args, **options)
        return _encoded(_finished(result) if inspect.iscoroutine(result) else result)

    # FastAPI follows `__wrapped__` to find the signature and must not find the coroutine function.
    kept = [parameter for name, parameter in signature.parameters.items() if name != "user"]
    call.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    del call.__wrapped__  # type: ignore[attr-defined]
    return call


def _encoded(result: Any) -> Any:
    """Returns a result as a JSON answer, encoded in this thread. FastAPI would encode each value again, on the event loop."""
    try:
        return JsonAnswer(result) if isinstance(result, (dict, list)) else result
    except (TypeError, ValueError):  # only FastAPI's encoder supports a value in it
        return result


def _finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine that never waits and returns its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("a handler of MONAI Label waits for something, which the supported versions never do")
