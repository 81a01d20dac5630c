"""Verifies tokens and passwords with the OpenID Connect issuer and caches its keys.

An issuer may hang. So calls run in a few separate daemon threads, callers wait at most `_WAIT_SECONDS`, and after an unanswered
call a circuit breaker refuses further calls for a while.

Keys are valid for the time in the issuer's answer (`Cache-Control: max-age`), or else for five minutes. After that, a withdrawn
key is no longer used. Old keys stay in use only while the issuer does not answer, for at most `oidc_stale_minutes`.

| request | when |
| --- | --- |
| keys | at the first token; after half of the keys' lifetime, in the background; at its end; at an unknown key, once per 30 s |
| password | at each login with a password |
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import jwt

from medsam2_atlas.base.errors import UnavailableError
from medsam2_atlas.base.upstream import CallPool, CircuitBreaker
from server.config import ServerConfig

log = logging.getLogger(__name__)

_REQUEST_SECONDS = 3.0
_WAIT_SECONDS = 3.5
_RENEW_SECONDS = 0.5
"""Max seconds that a request waits for new keys before it uses expired ones."""
_BREAK_SECONDS = 15.0
_KEYS_SECONDS = 300.0
_KEYS_MIN_SECONDS, _KEYS_MAX_SECONDS = 30.0, 86400.0
"""Limits of the issuer's `max-age`: 0 would send a query for each request, and a year would keep a withdrawn key in use."""
_UNKNOWN_KEY_SECONDS = 30.0
_ANSWER_BYTES = 1 << 20
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")  # never HS*, never none
_REMEDY = "Try again later, or tell an admin."


class IssuerError(UnavailableError):
    """The issuer does not answer, or its answer cannot be used."""


class _AnswerError(ValueError):
    """An answer that does not follow OpenID Connect."""


@dataclass(frozen=True)
class _Known:
    """The issuer's configuration and keys.

    Attributes:
        token_endpoint: URL; empty if there is none.
        keys: the keys by their ids.
        fetched: time of the request, in seconds of the clock.
        seconds: lifetime of the keys.
    """

    token_endpoint: str
    keys: Mapping[str, Any]
    fetched: float
    seconds: float


class Issuer:
    """Verifies tokens with the issuer's keys."""

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Creates the verifier; it sends no request yet.

        Args:
            config: the server's settings.
            clock: a monotonic clock in seconds.
        """
        self._config, self._url, self._clock = config, config.oidc_issuer.rstrip("/"), clock
        self._known: _Known | None = None
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._keys_breaker = CircuitBreaker("issuer", seconds=_BREAK_SECONDS, remedy=_REMEDY)
        self._password_breaker = CircuitBreaker("issuer", seconds=_BREAK_SECONDS, remedy=_REMEDY)
        self._keys_calls = CallPool("issuer", threads=1, waiting=64, remedy=_REMEDY)
        self._password_calls = CallPool("issuer", threads=4, waiting=32, remedy=_REMEDY)

    def known_claims(self, token: str) -> dict[str, Any] | None:
        """Returns the claims of a token that a key in memory has signed; None for any other token. Never waits."""
        known = self._known
        if known is None or self._age(known) > known.seconds:
            return None
        if self._age(known) > known.seconds / 2 and self._may_ask():
            with suppress(UnavailableError):  # the keys are still valid for a while
                self._fetch(0.0)
        key = known.keys.get(_key_id(token) or "")
        return None if key is None else self._verified(token, key)

    def claims(self, token: str) -> dict[str, Any] | None:
        """Returns the claims of a token; None if it is not valid. May wait a few seconds for the issuer's keys.

        Raises:
            IssuerError: new keys are needed, and the issuer does not answer.
        """
        key_id = _key_id(token)
        known = self._usable()
        if key_id is None:
            return None
        if key_id not in known.keys:
            if self._may_ask():
                known = self._fetch(_WAIT_SECONDS)
            elif self._keys_breaker.open:
                raise self._error(f"does not answer ({self._keys_breaker.problem}).")
        key = known.keys.get(key_id)
        return None if key is None else self._verified(token, key)

    def token(self, name: str, password: str) -> str:
        """Returns the issuer's token for a name and a password; an empty string if they are wrong.

        Raises:
            IssuerError: the issuer does not answer, or its answer is not valid.
        """
        known = self._usable()
        if not known.token_endpoint:
            raise IssuerError("issuer", f"{self._url} has no token_endpoint.", "Log in with a token, or tell an admin.")
        form = {"grant_type": "password", "client_id": self._config.oidc_audience, "username": name, "password": password}

        def ask() -> str:
            with self._password_breaker.guard(httpx.HTTPError):
                status, content, _ = _ask("POST", known.token_endpoint, form)
            if status in (400, 401, 403):
                return ""
            answer = _object(status, content)
            token = answer.get("access_token")
            if not isinstance(token, str):
                raise _AnswerError("the answer has no access_token")
            return token

        try:
            return self._password_calls.run(object(), ask, seconds=_WAIT_SECONDS)
        except UnavailableError as error:
            raise self._error(error.problem) from error
        except (httpx.InvalidURL, _AnswerError) as error:
            raise self._error(f"sent an invalid answer: {error}.") from error

    def _usable(self) -> _Known:
        """Returns valid keys: those in memory or new ones; if the issuer does not answer, old ones for a while.

        Raises:
            IssuerError: there are no valid keys.
        """
        known = self._known
        if known is not None and self._age(known) <= known.seconds:
            return known
        old = known is not None and self._age(known) <= known.seconds + 60 * self._config.oidc_stale_minutes
        try:
            return self._fetch(_RENEW_SECONDS if old else _WAIT_SECONDS)
        except IssuerError:
            if known is None or not old:
                raise
            return known

    def _age(self, known: _Known) -> float:
        return self._clock() - known.fetched

    def _may_ask(self) -> bool:
        """Returns whether enough time has passed since the last request for keys. If so, notes the time of a new one."""
        with self._lock:
            now = self._clock()
            if now - self._asked < _UNKNOWN_KEY_SECONDS:
                return False
            self._asked = now
            return True

    def _fetch(self, seconds: float) -> _Known:
        """Fetches the keys; simultaneous calls share one request. Does not wait if the issuer did not answer recently."""

        def ask() -> None:
            with self._keys_breaker.guard(httpx.HTTPError, httpx.InvalidURL, _AnswerError):
                self._known = self._asked_for()

        problem = self._keys_breaker.problem
        try:
            self._keys_calls.run("keys", ask, seconds=0.0 if problem else seconds)
        except UnavailableError as error:
            raise self._error(f"does not answer ({problem})." if problem else error.problem) from error
        assert self._known is not None
        return self._known

    def _asked_for(self) -> _Known:
        self._asked = began = self._clock()
        discovered = _object(*_ask("GET", f"{self._url}/.well-known/openid-configuration")[:2])
        address = discovered.get("jwks_uri")
        if not isinstance(address, str):
            raise _AnswerError("its configuration has no jwks_uri")
        status, content, caching = _ask("GET", address)
        try:
            listed = jwt.PyJWKSet.from_dict(_object(status, content)).keys
        except (jwt.PyJWTError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise _AnswerError(f"its keys cannot be used: {error}") from error
        keys = {key.key_id: key.key for key in listed if isinstance(key.key_id, str) and key.public_key_use in (None, "sig")}
        if not keys:
            raise _AnswerError("it has no keys for signatures")
        endpoint = discovered.get("token_endpoint")
        return _Known(endpoint if isinstance(endpoint, str) else "", keys, began, _seconds_of(caching))

    def _verified(self, token: str, key: Any) -> dict[str, Any] | None:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(_ALGORITHMS),
                audience=self._config.oidc_audience,
                issuer=[self._url, f"{self._url}/"],
                options={"require": ["exp", "iss", "aud"]},
                leeway=30,
            )
        except (jwt.PyJWTError, TypeError, ValueError, OverflowError):  # e.g. a key that does not fit the token's algorithm
            return None
        return claims

    def _error(self, problem: str) -> IssuerError:
        log.warning("the issuer %s %s", self._url, problem)
        return IssuerError("issuer", f"{self._url} {problem}", _REMEDY)


def _key_id(token: str) -> str | None:
    """Returns the id of the signing key in a token's header; None if there is none."""
    try:
        found = jwt.get_unverified_header(token).get("kid")
    except (jwt.PyJWTError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _ask(method: str, url: str, form: Mapping[str, str] | None = None) -> tuple[int, bytes, str]:
    """Returns status, content and `Cache-Control` of an answer; limits its time and size."""
    deadline = time.monotonic() + _REQUEST_SECONDS
    content = bytearray()
    with httpx.stream(method, url, data=form, timeout=_REQUEST_SECONDS) as answer:
        for block in answer.iter_bytes():
            content += block
            if len(content) > _ANSWER_BYTES:
                raise httpx.DecodingError("the answer is too long")
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("the answer takes too long")
        return answer.status_code, bytes(content), answer.headers.get("cache-control", "")


def _seconds_of(caching: str) -> float:
    """Returns the lifetime of keys in seconds, from the `Cache-Control` header of their answer."""
    found = re.search(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,12})", caching.lower())
    return min(_KEYS_MAX_SECONDS, max(_KEYS_MIN_SECONDS, float(found[1]))) if found else _KEYS_SECONDS


def _object(status: int, content: bytes) -> dict[str, Any]:
    """Returns the JSON object of an answer."""
    if status != 200:
        raise _AnswerError(f"the answer has the status {status}")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _AnswerError("the answer is not JSON") from error
    if not isinstance(found, dict):
        raise _AnswerError("the answer is not a JSON object")
    return found
