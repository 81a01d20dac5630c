"""Ways in and out: pages for browsers, and what MONAI Label's client asks for.

A browser gets a cookie that stands for a login of this server (`server.logins`), never a token. Pages of other sites
cannot log a browser in or out: `AccessMiddleware` checks the origin of each form.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from server import errors
from server.access import Access, user_of
from server.audit import note_login
from server.forms import LimitedRoute
from server.headers import html_page
from server.issuer import IssuerError
from server.logins import Proof
from server.own_pages import FIRST_PAGE, own_page
from server.root_path import cookie_name
from server.wrong_logins import TooManyWrongError, place_of

router = APIRouter(tags=["Access"], route_class=LimitedRoute)

_PAGE = Template((Path(__file__).parent / "login.html").read_text(encoding="utf-8"))
_FORM = """<form method="post" action="login">
<input type="hidden" name="next" value="{next}">
<label>Name <input name="username" value="{name}" autocomplete="username"></label>
<label>Token or password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button></form>"""
_GO_ON = '<p>If you are logged in: <a href="{page}">go on</a>.</p>'
_LOGGED_IN = '<p>You are logged in as {name}.</p><form method="post" action="logout"><button>Log out</button></form>'
_LOGGED_OUT = '<p>You are not logged in.</p><p><a href="login">Log in</a></p>'
_WRONG = "Name, token or password is wrong."
_NO_ANSWER = "Logins cannot be checked now: the login service does not answer. Try again in a minute, or log in with a token."
_MAX_NAME = 200


class _RefusedLoginError(Exception):
    """A login that does not take place. status: of the answer. wait: seconds to wait before the next one, 0 for none."""

    def __init__(self, status: int, message: str, wait: int = 0) -> None:
        self.status, self.message, self.wait = status, message, wait
        super().__init__(message)

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.wait)} if self.wait else {}


@router.get("/login", include_in_schema=False)
async def login_page(request: Request, next: str = "") -> Response:
    """A form; for those who are logged in, who they are, and a way out."""
    user, page = user_of(request), own_page(next)
    if user.id:
        return _page("Login", _logged_in(user.name) + _GO_ON.format(page=_link(page)))
    # A browser does not send the cookie when a link in a mail leads here, but it does from this page on.
    return _page("Login", _form(page) + (_GO_ON.format(page=_link(page)) if page else ""))


@router.post("/login", include_in_schema=False)
async def login(
    request: Request,
    username: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "",
) -> Response:
    """A cookie, and back to where one was, or on to the viewer."""
    page = own_page(next)
    try:
        _, proof = await _signed_in(request, username, password)
    except _RefusedLoginError as refused:
        return _page("Login", _form(page, username), refused.message, refused.status, refused.headers)
    except IssuerError:
        return _page("Login", _form(page, username), _NO_ANSWER, 503, {"Retry-After": "60"})
    logins = _access(request).logins
    logins.end(request.cookies.get(cookie_name(request), ""))
    response = RedirectResponse(page or FIRST_PAGE, 303)
    # Without a path of its own, a cookie holds for the folder of this page as the browser sees it: the root path.
    response.set_cookie(cookie_name(request), logins.begin(proof), path=None, **_flags(request))
    return response


@router.get("/logout", include_in_schema=False)
async def logout_page(request: Request) -> Response:
    """A button: a mere link, which any page can make a browser follow, ends no login."""
    user = user_of(request)
    return _page("Logout", _logged_in(user.name) if user.id else _LOGGED_OUT)


@router.post("/logout", include_in_schema=False)
async def logout(request: Request) -> Response:
    """Ends the login of the cookie."""
    _access(request).logins.end(request.cookies.get(cookie_name(request), ""))
    response = RedirectResponse("/login", 303)
    response.set_cookie(cookie_name(request), "", max_age=0, path=None, **_flags(request))
    return response


@router.get("/auth/", summary="Whether one has to log in")
async def auth_enabled(request: Request) -> dict[str, Any]:
    """As MONAI Label's client asks."""
    return {"enabled": _access(request).asks_who, "client_id": "medsam2-atlas", "realm": ""}


@router.post("/auth/token", summary="A token for a name and password")
async def auth_token(request: Request, username: Annotated[str, Form()] = "", password: Annotated[str, Form()] = "") -> Any:
    """The password may be a token itself, so that viewers that only ask for a name and a password can use one."""
    try:
        token, _ = await _signed_in(request, username, password)
    except _RefusedLoginError as refused:
        status = 401 if refused.status == 422 else refused.status
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else refused.headers
        return errors.respond(status, refused.message, headers=headers)
    return {"access_token": token, "token_type": "bearer"}


@router.get("/auth/token/valid", summary="Whether the token that is sent along is good")
async def token_valid() -> dict[str, Any]:
    """Nothing: without a good token there is no way here."""
    return {}


async def _signed_in(request: Request, name: str, secret: str) -> tuple[str, Proof]:
    """Returns the token of a name and a secret, and whose it is; tokens of the file do not wait for the issuer.

    Raises:
        _RefusedLoginError: they are wrong or missing, or there were too many wrong ones.
        IssuerError: the issuer cannot be asked.
    """
    access, place = _access(request), place_of(request.scope)
    note_login(request.scope, name if access.knows(name) else "")
    if not secret:
        raise _RefusedLoginError(422, "Type your token or password.")
    try:
        # Others at the place of somebody who guesses can still log in with their tokens, which are too long to be guessed.
        proof = access.proof_now(secret)
        wait = 0 if proof is not None else access.wrong.wait(place)
        if wait:
            raise TooManyWrongError(wait)
        found = (secret, proof) if proof is not None else await access.asked(access.sign_in, name, secret, place)
    except TooManyWrongError as error:
        raise _RefusedLoginError(429, str(error), error.seconds) from error
    if found is None:
        raise _RefusedLoginError(401, _WRONG)
    note_login(request.scope, found[1].user.name, found[1].user)
    return found


def _page(title: str, content: str, problem: str = "", status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = _PAGE.substitute(title=title, content=content, problem=escape(problem))
    return html_page(text, status, headers, template=_PAGE.template)


def _form(page: str, name: str = "") -> str:
    return _FORM.format(next=escape(page), name=escape(name[:_MAX_NAME]))


def _logged_in(name: str) -> str:
    return _LOGGED_IN.format(name=escape(name)) if name else "<p>Nobody has to log in to this server.</p>"


def _link(page: str) -> str:
    """Returns the relative address of a page, as seen from `/login`."""
    return escape(f".{page or FIRST_PAGE}")


def _flags(request: Request) -> dict[str, Any]:
    secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    return {"httponly": True, "samesite": "strict", "secure": secure}


def _access(request: Request) -> Access:
    access: Access = request.app.state.access
    return access
