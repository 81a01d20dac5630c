"""People: their names, roles and ids, and how an issuer's claims become them.

`User.name` is what people read, and others may have the same. `User.id` tells people apart: `token:NAME` for a person of the
file of tokens, `oidc:ISSUER#SUBJECT` for one of an issuer, `local` where nobody has to log in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medsam2_atlas.access.token_entries import ROLES, is_visible, shown_name
from server.config import ServerConfig

_ID_CHARACTERS = 255
"""Max length of a subject, as OpenID Connect has it."""


@dataclass(frozen=True)
class User:
    """A person who asks.

    Attributes:
        name: for people to read; empty if nobody has to log in.
        role: one of `ROLES`.
        id: tells people apart; empty for someone who is not logged in.
    """

    name: str
    role: str
    id: str = ""

    def may(self, role: str) -> bool:
        """Returns whether the user has a role's rights."""
        return ROLES.index(self.role) >= ROLES.index(role)


LOCAL = User("", "admin", "local")
"""Whoever sits at the machine, if nobody has to log in."""
NOBODY = User("", "annotator")
"""Whoever is not logged in; reaches open routes only."""


def user_of_claims(claims: Mapping[str, Any], config: ServerConfig) -> User | None:
    """Returns the person of an issuer's claims; None without a role of this server, a name, or a usable subject."""
    roles = held_roles(claim(claims, config.oidc_roles))
    given = claim(claims, config.oidc_name)
    subject = claims.get("sub")
    name = shown_name(given) or shown_name(subject)
    issuer = config.oidc_issuer.rstrip("/")
    if subject is not None:
        who = f"oidc:{issuer}#{subject}" if _tells_apart(subject) else ""
    else:  # another prefix, so that no subject can be somebody's name
        who = f"oidc-name:{issuer}#{given}" if _tells_apart(given) else ""
    return User(name, roles[-1], who) if roles and name and who else None


def held_roles(value: object) -> list[str]:
    """Returns the roles of this server in a claim, the highest last.

    A text holds roles between blanks, a list holds one in each text; both are compared as a whole. Any other value has none.
    """
    if isinstance(value, str):
        words = value.split()
    elif isinstance(value, list) and all(isinstance(word, str) for word in value):
        words = value
    else:
        words = []
    return [role for role in ROLES if role in words]


def claim(claims: Mapping[str, Any], path: str) -> object:
    """Returns a claim; None if it is missing. `path` is its name, which may hold dots, or else a path with dots."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for step in path.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    return found


def _tells_apart(text: object) -> bool:
    """Returns whether a text can be a person's id: it must not be shortened or changed for that."""
    return isinstance(text, str) and 0 < len(text.strip()) <= len(text) <= _ID_CHARACTERS and all(map(is_visible, text))
