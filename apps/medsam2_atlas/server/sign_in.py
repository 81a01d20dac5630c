"""Tells people by their tokens, passwords and cookies."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

from medsam2_atlas.access.token_entries import digest_of
from server.config import ServerConfig
from server.issuer import Issuer, IssuerError
from server.logins import Logins, Proof
from server.people import User, user_of_claims
from server.token_file import TokenFile
from server.wrong_logins import WrongLogins

T = TypeVar("T")

_ISSUER_SECONDS = 8.0
_ISSUER_THREADS = 8


class Access:
    """Tells who somebody is.

    Attributes:
        logins: those of browsers.
        wrong: the wrong logins of the last minute.
    """

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            config: the server's settings.
            clock: returns seconds that never go back.

        Raises:
            InputError: a file of tokens that cannot be used.
        """
        self._config = config
        self._issuer = Issuer(config, clock) if config.oidc_issuer else None
        self._tokens = TokenFile(Path(config.tokens), clock=clock) if config.tokens else None
        self.logins = Logins(seconds=config.login_hours * 3600, idle=config.login_idle_hours * 3600, clock=clock)
        self.wrong = WrongLogins(clock)

    @property
    def asks_who(self) -> bool:
        """Whether anybody has to log in."""
        return self._config.asks_who

    def knows(self, name: str) -> bool:
        """Returns whether the file of tokens has a person of this name."""
        return self._tokens is not None and name in {person.name for person in self._tokens.people}

    def tell_of_tokens(self, told: Callable[[frozenset[User], frozenset[User], str], None]) -> None:
        """Calls a function whenever the file of tokens has changed, with the people before and now, or with a problem."""
        if self._tokens is not None:
            self._tokens.told = told

    @property
    def problem(self) -> str:
        """Returns why the file of tokens as it is now cannot be used; empty if it can."""
        return self._tokens.problem if self._tokens is not None else ""

    def needs_issuer(self, token: str) -> bool:
        """Returns whether a token that `who_now` does not know may be one of the issuer."""
        return self._issuer is not None and _signed(token)

    def who_now(self, token: str) -> User | None:
        """Returns the person of a token, without waiting; None for an unknown token, or if the issuer must be queried."""
        proof = self.proof_now(token)
        return None if proof is None else proof.user

    def who(self, token: str) -> User | None:
        """Returns the person of a token; None if it is nobody's, or has expired. May wait for the issuer for a few seconds.

        Raises:
            IssuerError: the issuer's keys are not known, and cannot be fetched.
        """
        proof = self.proof(token)
        return None if proof is None else proof.user

    def who_logged_in(self, key: str) -> User | None:
        """Returns the person of a cookie; None if its login has ended, or the token that it began with does not count any more.

        The role is the one that the file of tokens gives now, or that the issuer gave at the login.
        """
        proof = self.logins.find(key) if key else None
        if proof is None or not proof.digest:
            return None if proof is None else proof.user
        entry = self._tokens.entry(proof.digest) if self._tokens is not None else None
        return entry.user if entry is not None and entry.user.id == proof.user.id else None

    def proof_now(self, token: str) -> Proof | None:
        """Returns as `who_now`, with what a login of this token rests on."""
        digest = digest_of(token)
        entry = self._tokens.entry(digest) if self._tokens is not None else None
        if entry is not None:
            return Proof(entry.user, digest, entry.expires)
        return self._vouched(self._issuer.claims_now(token)) if self._issuer and _signed(token) else None

    def proof(self, token: str) -> Proof | None:
        """Returns as `who`, with what a login of this token rests on.

        Raises:
            IssuerError: the issuer's keys are not known, and cannot be fetched.
        """
        found = self.proof_now(token)
        if found is not None or not self._issuer or not _signed(token):
            return found
        return self._vouched(self._issuer.claims(token))

    def sign_in(self, name: str, secret: str, place: str) -> tuple[str, Proof] | None:
        """Returns a token for a name and a secret, and whose it is; None if they are wrong.

        The secret is a token itself, or a password that the issuer takes. A login by password rests on the password: it may
        outlive the token that the issuer gave for it, which often ends after five minutes.

        Args:
            name: for the issuer.
            secret: a token or a password.
            place: where the login comes from; a wrong one counts there.

        Raises:
            IssuerError: the issuer cannot be asked.
            TooManyWrongError: the place has to wait.
        """
        self.wrong.begin(place)
        try:
            found = self._signed_in(name, secret)
        except IssuerError:
            self.wrong.forgive(place)
            raise
        if found is not None:
            self.wrong.forgive(place)
        return found

    def _signed_in(self, name: str, secret: str) -> tuple[str, Proof] | None:
        found = self.proof(secret)
        if found is not None:
            return secret, found
        token = self._issuer.token(name, secret) if self._issuer else ""
        found = self.proof(token) if token else None
        return None if found is None else (token, Proof(found.user))

    async def asked(self, question: Callable[..., T], *arguments: str) -> T:
        """Returns what `who` or `sign_in` returns, which may wait for the issuer, asked in a few threads of their own.

        Raises:
            IssuerError: the issuer does not answer.
        """
        try:
            with anyio.fail_after(_ISSUER_SECONDS):
                return await to_thread.run_sync(question, *arguments, limiter=self._limiter, abandon_on_cancel=True)
        except TimeoutError as error:
            raise IssuerError("issuer", f"{self._config.oidc_issuer} does not answer.", "Try again later.") from error

    @cached_property
    def _limiter(self) -> CapacityLimiter:
        return CapacityLimiter(_ISSUER_THREADS)  # needs a running event loop

    def _vouched(self, claims: dict[str, object] | None) -> Proof | None:
        user = None if claims is None else user_of_claims(claims, self._config)
        if claims is None or user is None:
            return None
        end = claims["exp"]  # a number: the token has been verified
        return Proof(user, ends=float(end) if isinstance(end, (int, float)) else 0.0)


def _signed(token: str) -> bool:
    """Returns whether a token looks like one of an issuer."""
    return token.count(".") == 2
