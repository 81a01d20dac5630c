"""Takes MONAI Label's handlers off the event loop.

They are declared `async`, but compute or read files without ever waiting, so that one of them keeps all other requests
from being answered. Run as plain functions, FastAPI gives each a thread.
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
    """A router with the same routes, run in the thread pool.

    Args:
        router: one of MONAI Label's.
        without: (method, path) of routes that are replaced by others.
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
    """The handler as a plain function. MONAI Label's own user is left out: who asks is known before a handler runs."""
    signature = inspect.signature(endpoint)
    asks_user = "user" in signature.parameters

    @functools.wraps(endpoint)
    def call(*args: Any, **options: Any) -> Any:
        if asks_user:
            options["user"] = DEFAULT_USER
        result = endpoint(*args, **options)
        return _encoded(_finished(result) if inspect.iscoroutine(result) else result)

    # FastAPI looks through `wraps` for the signature, and must not find a coroutine function behind it.
    kept = [parameter for name, parameter in signature.parameters.items() if name != "user"]
    call.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    del call.__wrapped__  # type: ignore[attr-defined]
    return call


def _encoded(result: Any) -> Any:
    """JSON as it is sent, made in this thread: FastAPI would take every value in hand once more, on the event loop."""
    try:
        return JsonAnswer(result) if isinstance(result, (dict, list)) else result
    except (TypeError, ValueError):  # holds what only FastAPI's encoder knows
        return result


def _finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("a handler of MONAI Label waited for something, which it never did before")
