"""Identifies users by their tokens, passwords and cookies."""

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
    """Identifies users with the token file, the issuer and the logins of browsers.

    Attributes:
        logins: the logins of browsers.
        wrong: the wrong logins of the last minute.
    """

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the token file, if there is one.

        Args:
            config: the server's settings.
            clock: a monotonic clock in seconds.

        Raises:
            InputError: the token file cannot be used.
        """
        self._config = config
        self._issuer = Issuer(config, clock) if config.oidc_issuer else None
        self._tokens = TokenFile(Path(config.tokens), clock=clock) if config.tokens else None
        self.logins = Logins(seconds=config.login_hours * 3600, idle=config.login_idle_hours * 3600, clock=clock)
        self.wrong = WrongLogins(clock)

    @property
    def login_required(self) -> bool:
        """Whether users have to log in."""
        return self._config.login_required

    def has_user(self, name: str) -> bool:
        """Returns whether the token file contains a user of this name."""
        return self._tokens is not None and name in {person.name for person in self._tokens.people}

    def names(self) -> list[str]:
        """Returns the sorted names of the users in the token file; empty without one, because an issuer's users are unknown."""
        people = self._tokens.people if self._tokens is not None else frozenset()
        return sorted({person.name for person in people}, key=str.casefold)

    def may_be_user(self, name: str) -> bool:
        """Returns whether a user of this name may exist: always if an issuer vouches for users, or without logins."""
        return self._issuer is not None or self._tokens is None or self.has_user(name)

    def on_tokens_changed(self, notify: Callable[[frozenset[User], frozenset[User], str], None]) -> None:
        """Registers a function that is called whenever the token file has changed.

        Args:
            notify: called with the previous users, the present users, and the problem of the file (empty if there is none).
        """
        if self._tokens is not None:
            self._tokens.on_change = notify

    @property
    def problem(self) -> str:
        """The reason why the present token file cannot be used; empty if it can."""
        return self._tokens.problem if self._tokens is not None else ""

    def needs_issuer(self, token: str) -> bool:
        """Returns whether a token that `known_user` does not find may be a token of the issuer."""
        return self._issuer is not None and _signed(token)

    def known_user(self, token: str) -> User | None:
        """Returns the user of a token without waiting; None for an unknown token, or if the issuer's keys must be fetched."""
        proof = self.known_proof(token)
        return None if proof is None else proof.user

    def user(self, token: str) -> User | None:
        """Returns the user of a token; None if it is not valid or has expired. May wait a few seconds for the issuer.

        Raises:
            IssuerError: the issuer's keys are needed and cannot be fetched.
        """
        proof = self.proof(token)
        return None if proof is None else proof.user

    def logged_in_user(self, key: str) -> User | None:
        """Returns the user of a login cookie; None if the login has ended, or its token is no longer valid.

        The role is the present one in the token file, or the one that the issuer reported at the login.
        """
        proof = self.logins.find(key) if key else None
        if proof is None or not proof.digest:
            return None if proof is None else proof.user
        entry = self._tokens.entry(proof.digest) if self._tokens is not None else None
        return entry.user if entry is not None and entry.user.id == proof.user.id else None

    def known_proof(self, token: str) -> Proof | None:
        """Returns the proof of a token's user without waiting; None in the same cases as `known_user`."""
        digest = digest_of(token)
        entry = self._tokens.entry(digest) if self._tokens is not None else None
        if entry is not None:
            return Proof(entry.user, digest, entry.expires)
        return self._vouched(self._issuer.known_claims(token)) if self._issuer and _signed(token) else None

    def proof(self, token: str) -> Proof | None:
        """Returns the proof of a token's user; None if the token is not valid. May wait a few seconds for the issuer.

        Raises:
            IssuerError: the issuer's keys are needed and cannot be fetched.
        """
        found = self.known_proof(token)
        if found is not None or not self._issuer or not _signed(token):
            return found
        return self._vouched(self._issuer.claims(token))

    def sign_in(self, name: str, secret: str, address: str) -> tuple[str, Proof] | None:
        """Returns a token for a name and a secret, and the proof of its user; None if they are wrong.

        The secret is a token or a password of the issuer. A login by password may outlive the issuer's token, which often
        expires after five minutes.

        Args:
            name: name for the issuer.
            secret: a token or a password.
            address: address of the client (`client_address`); wrong logins are counted by address.

        Raises:
            IssuerError: the issuer does not answer.
            TooManyWrongError: the address has to wait.
        """
        self.wrong.begin(address)
        try:
            found = self._signed_in(name, secret)
        except IssuerError:
            self.wrong.forgive(address)
            raise
        if found is not None:
            self.wrong.forgive(address)
        return found

    def _signed_in(self, name: str, secret: str) -> tuple[str, Proof] | None:
        found = self.proof(secret)
        if found is not None:
            return secret, found
        token = self._issuer.token(name, secret) if self._issuer else ""
        found = self.proof(token) if token else None
        return None if found is None else (token, Proof(found.user))

    async def with_issuer(self, call: Callable[..., T], *arguments: str) -> T:
        """Runs a method that may wait for the issuer in a few separate threads and returns its result.

        Args:
            call: `user` or `sign_in`.
            arguments: arguments of `call`.

        Raises:
            IssuerError: the issuer does not answer.
        """
        try:
            with anyio.fail_after(_ISSUER_SECONDS):
                return await to_thread.run_sync(call, *arguments, limiter=self._limiter, abandon_on_cancel=True)
        except TimeoutError as error:
            raise IssuerError("issuer", f"{self._config.oidc_issuer} does not answer.", "Try again later.") from error

    @cached_property
    def _limiter(self) -> CapacityLimiter:
        return CapacityLimiter(_ISSUER_THREADS)  # needs a running event loop

    def _vouched(self, claims: dict[str, object] | None) -> Proof | None:
        """Returns the proof of a user by an issuer's claims."""
        user = None if claims is None else user_of_claims(claims, self._config)
        if claims is None or user is None:
            return None
        end = claims["exp"]  # a number, because the token has been verified
        return Proof(user, ends=float(end) if isinstance(end, (int, float)) else 0.0)


def _signed(token: str) -> bool:
    """Returns whether a token has the form of an issuer's token (three parts)."""
    return token.count(".") == 2
