"""Ways in: a page for browsers, and what MONAI Label's client asks for."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from server import errors
from server.access import Access
from server.forms import LimitedRoute
from server.headers import html_page
from server.root_path import cookie_name

router = APIRouter(tags=["Access"], route_class=LimitedRoute)

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>medsam2_atlas</title>
<style>body{font:16px system-ui;max-width:24rem;margin:15vh auto;padding:0 1rem}
input,button{font:inherit;display:block;width:100%;box-sizing:border-box;margin:.3rem 0 1rem;padding:.5rem}</style>
<h1>medsam2_atlas</h1><form method="post" action="login">
<label>Name <input name="username" autocomplete="username"></label>
<label>Token or password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button></form><p>PROBLEM</p></html>"""


@router.get("/login", include_in_schema=False)
async def login_page() -> Response:
    """A form."""
    return html_page(_PAGE.replace("PROBLEM", ""))


@router.post("/login", include_in_schema=False)
async def login(request: Request, username: Annotated[str, Form()] = "", password: Annotated[str, Form()] = "") -> Response:
    """A cookie, and on to the viewer."""
    token = await _signed_in(request, username, password)
    if not token:
        return html_page(_PAGE.replace("PROBLEM", "That is not right."), 401)
    response = RedirectResponse("/ohif/", 303)
    secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    # Without a path of its own, a cookie holds for the folder of this page as the browser sees it: the root path.
    response.set_cookie(cookie_name(request), token, path=None, httponly=True, samesite="strict", secure=secure)
    return response


@router.get("/auth/", summary="Whether one has to log in")
async def auth_enabled(request: Request) -> dict[str, Any]:
    """As MONAI Label's client asks."""
    return {"enabled": _access(request).asks_who, "client_id": "medsam2-atlas", "realm": ""}


@router.post("/auth/token", summary="A token for a name and password")
async def auth_token(request: Request, username: Annotated[str, Form()] = "", password: Annotated[str, Form()] = "") -> Any:
    """The password may be a token itself, so that viewers that only ask for a name and a password can use one."""
    token = await _signed_in(request, username, password)
    if not token:
        return errors.respond(401, "Name or password is not right.", headers={"WWW-Authenticate": "Bearer"})
    return {"access_token": token, "token_type": "bearer"}


@router.get("/auth/token/valid", summary="Whether the token that is sent along is good")
async def token_valid() -> dict[str, Any]:
    """Nothing: without a good token there is no way here."""
    return {}


async def _signed_in(request: Request, name: str, secret: str) -> str:
    """Returns the token of a name and a secret; tokens of the file do not wait for the issuer."""
    access = _access(request)
    return secret if access.who_now(secret) is not None else await access.asked(access.sign_in, name, secret)


def _access(request: Request) -> Access:
    access: Access = request.app.state.access
    return access
