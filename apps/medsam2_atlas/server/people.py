"""Users: their names, roles and ids, and their derivation from an issuer's claims.

`User.name` is for display and need not be unique. `User.id` is unique: `token:NAME` for a user in the token file,
`oidc:ISSUER#SUBJECT` for a user of the issuer, `local` on a server without logins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medsam2_atlas.access.token_entries import ROLES, is_visible, shown_name
from server.config import ServerConfig

_ID_CHARACTERS = 255
"""Max length of a subject in OpenID Connect."""


@dataclass(frozen=True)
class User:
    """The user who sends a request.

    Attributes:
        name: name for display; empty on a server without logins.
        role: one of `ROLES`.
        id: unique id; empty for a user who is not logged in.
    """

    name: str
    role: str
    id: str = ""

    def may(self, role: str) -> bool:
        """Returns whether the user has the rights of a role.

        >>> User("kim", "reviewer").may("annotator")
        True
        """
        return ROLES.index(self.role) >= ROLES.index(role)


LOCAL = User("", "admin", "local")
"""The user of a server without logins, who works on the server's own machine."""
NOBODY = User("", "annotator")
"""A user who is not logged in and may use open routes only."""


def user_of_claims(claims: Mapping[str, Any], config: ServerConfig) -> User | None:
    """Returns the user of an issuer's claims.

    Args:
        claims: the claims of a verified token.
        config: the server's settings; they name the claims for roles and name.

    Returns:
        The user; None without a role of this server, a name, or a valid subject.
    """
    roles = roles_in(claim(claims, config.oidc_roles))
    given = claim(claims, config.oidc_name)
    subject = claims.get("sub")
    name = shown_name(given) or shown_name(subject)
    issuer = config.oidc_issuer.rstrip("/")
    if subject is not None:
        user_id = f"oidc:{issuer}#{subject}" if _is_id(subject) else ""
    else:  # another prefix, so that no subject can equal the name of another user
        user_id = f"oidc-name:{issuer}#{given}" if _is_id(given) else ""
    return User(name, roles[-1], user_id) if roles and name and user_id else None


def roles_in(value: object) -> list[str]:
    """Returns the roles of this server in a claim, the highest last.

    A text contains roles separated by blanks, a list contains one role per text. Any other value contains none.

    >>> roles_in("offline reviewer annotator"), roles_in(["admins"])
    (['annotator', 'reviewer'], [])
    """
    if isinstance(value, str):
        words = value.split()
    elif isinstance(value, list) and all(isinstance(word, str) for word in value):
        words = value
    else:
        words = []
    return [role for role in ROLES if role in words]


def claim(claims: Mapping[str, Any], path: str) -> object:
    """Returns a claim; None if it is missing.

    Args:
        claims: the claims of a token.
        path: name of a claim, which may contain dots, or else a path with dots.

    >>> claim({"realm_access": {"roles": ["admin"]}}, "realm_access.roles")
    ['admin']
    """
    if path in claims:
        return claims[path]
    found: Any = claims
    for step in path.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    return found


def _is_id(text: object) -> bool:
    """Returns whether a text can be a user's id without being shortened or changed."""
    return isinstance(text, str) and 0 < len(text.strip()) <= len(text) <= _ID_CHARACTERS and all(map(is_visible, text))
