"""Login and logout: pages for browsers, and routes for MONAI Label's client.

A browser gets a cookie that identifies a login of this server (`server.logins`), never a token. Pages of other sites cannot log
a browser in or out, because `AccessMiddleware` checks the origin of each form.
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
from server.wrong_logins import TooManyWrongError, client_address

router = APIRouter(tags=["Access"], route_class=LimitedRoute)

_PAGE = Template((Path(__file__).parent / "login.html").read_text(encoding="utf-8"))
_FORM = """<form method="post" action="login">
<input type="hidden" name="next" value="{next}">
<label>Name <input name="username" value="{name}" autocomplete="username" autofocus></label>
<label>Token or password
<input name="password" type="password" autocomplete="current-password" aria-describedby="help" required></label>
<button>Log in</button></form>
<p class="help" id="help">The operator of this server gives you a token. This browser stays logged in for some hours, or until
you log out.</p>"""
_CONTINUE = '<p><a href="{page}">Continue to the page</a></p>'
_ALREADY = '<p>Already logged in? <a href="{page}">Continue</a></p>'
_LOGGED_IN = '<p>You are logged in as {name}.</p><form method="post" action="logout"><button>Log out</button></form>'
_LOGGED_OUT = '<p>You are not logged in.</p><p><a href="login">Log in</a></p>'
_WRONG = "Name, token or password is wrong."
_NO_ANSWER = "The login service does not answer. Try again in a minute, or log in with a token."
_MAX_NAME = 200


class _RefusedLoginError(Exception):
    """A refused login, with the HTTP status of the answer and the seconds to wait before the next try (0 for none)."""

    def __init__(self, status: int, message: str, wait: int = 0) -> None:
        self.status, self.message, self.wait = status, message, wait
        super().__init__(message)

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.wait)} if self.wait else {}


@router.get("/login", include_in_schema=False)
async def login_page(request: Request, next: str = "") -> Response:
    """Shows the login form; for a user who is logged in, the name and a logout button."""
    user, page = user_of(request), own_page(next)
    if user.id:
        return _page("Logged in", _logged_in(user.name) + _CONTINUE.format(page=_link(page)))
    # A browser does not send the cookie when the user follows a link in an e-mail. It sends the cookie with links on this page.
    return _page("Log in", _form(page) + (_ALREADY.format(page=_link(page)) if page else ""))


@router.post("/login", include_in_schema=False)
async def login(
    request: Request,
    username: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "",
) -> Response:
    """Sets the cookie and redirects to the requested page, or else to the worklist."""
    page = own_page(next)
    try:
        _, proof = await _signed_in(request, username, password)
    except _RefusedLoginError as refused:
        return _page("Log in", _form(page, username), refused.message, refused.status, refused.headers)
    except IssuerError:
        return _page("Log in", _form(page, username), _NO_ANSWER, 503, {"Retry-After": "60"})
    logins = _access(request).logins
    logins.end(request.cookies.get(cookie_name(request), ""))
    response = RedirectResponse(page or FIRST_PAGE, 303)
    # Without a path, a cookie applies to the folder of this page as the browser sees it: the root path.
    response.set_cookie(cookie_name(request), logins.begin(proof), path=None, **_flags(request))
    return response


@router.get("/logout", include_in_schema=False)
async def logout_page(request: Request) -> Response:
    """Shows a logout button. A link is not enough to log out, because any page can make a browser follow it."""
    user = user_of(request)
    return _page("Log out", _logged_in(user.name) if user.id else _LOGGED_OUT)


@router.post("/logout", include_in_schema=False)
async def logout(request: Request) -> Response:
    """Ends the login of the cookie."""
    _access(request).logins.end(request.cookies.get(cookie_name(request), ""))
    response = RedirectResponse("/login", 303)
    response.headers["Clear-Site-Data"] = '"cache"'  # the small pictures of cases; browsers follow it over HTTPS only
    response.set_cookie(cookie_name(request), "", max_age=0, path=None, **_flags(request))
    return response


@router.get("/auth/", summary="Whether users have to log in")
async def auth_enabled(request: Request) -> dict[str, Any]:
    """Answers in the format of MONAI Label's client."""
    return {"enabled": _access(request).login_required, "client_id": "medsam2-atlas", "realm": ""}


@router.post("/auth/token", summary="A token for a name and password")
async def auth_token(request: Request, username: Annotated[str, Form()] = "", password: Annotated[str, Form()] = "") -> Any:
    """Returns a token. The password may be a token itself, so that viewers without a field for tokens can use one."""
    try:
        token, _ = await _signed_in(request, username, password)
    except _RefusedLoginError as refused:
        status = 401 if refused.status == 422 else refused.status
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else refused.headers
        return errors.respond(status, refused.message, headers=headers)
    return {"access_token": token, "token_type": "bearer"}


@router.get("/auth/token/valid", summary="Whether the sent token is valid")
async def token_valid() -> dict[str, Any]:
    """Returns an empty object. A request without a valid token does not reach this route."""
    return {}


async def _signed_in(request: Request, name: str, secret: str) -> tuple[str, Proof]:
    """Returns the token for a name and a secret, and its proof. Tokens of the token file do not wait for the issuer.

    Raises:
        _RefusedLoginError: the secret is wrong or missing, or there were too many wrong logins.
        IssuerError: the issuer does not answer.
    """
    access, address = _access(request), client_address(request.scope)
    note_login(request.scope, name if access.has_user(name) else "")
    if not secret:
        raise _RefusedLoginError(422, "Type your token or password.")
    try:
        # Tokens are too long to be guessed. So users who share an address with an attacker can still log in with their tokens.
        proof = access.known_proof(secret)
        wait = 0 if proof is not None else access.wrong.wait(address)
        if wait:
            raise TooManyWrongError(wait)
        found = (secret, proof) if proof is not None else await access.with_issuer(access.sign_in, name, secret, address)
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
    return _LOGGED_IN.format(name=escape(name)) if name else "<p>This server needs no login.</p>"


def _link(page: str) -> str:
    """Returns the relative address of a page, as seen from `/login`."""
    return escape(f".{page or FIRST_PAGE}")


def _flags(request: Request) -> dict[str, Any]:
    secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    return {"httponly": True, "samesite": "strict", "secure": secure}


def _access(request: Request) -> Access:
    access: Access = request.app.state.access
    return access
