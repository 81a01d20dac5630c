"""Reads token files, which list the people who may log in at the server with their role, token and expiry.

Only checksums of tokens are kept in memory. No message contains a token, not even one in the wrong field.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timezone
from datetime import time as time_of_day
from pathlib import Path
from typing import Any

import yaml

from medsam2_atlas.base.errors import InputError

ROLES = ("annotator", "reviewer", "admin")
"""The roles. Each includes the rights of the roles before it."""
MIN_CHARACTERS = 32
MAKE_ONE = 'Make one with: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
_NAME_CHARACTERS = 100
_MAX_BYTES = 1_000_000
_KEYS = ("name", "role", "token", "sha256", "expires")
_YAML_ERRORS = (ValueError, LookupError, AttributeError, TypeError, RecursionError, yaml.YAMLError)
"""The errors that PyYAML raises for invalid values such as `!!bool x`."""
_EXAMPLE = "put-a-long-random-text-here"
_EXAMPLES = frozenset(
    {
        *(hashlib.sha256(text.encode()).hexdigest() for text in (f"{_EXAMPLE}-1", f"{_EXAMPLE}-2", "a-long-random-text")),
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    }
)
"""The checksums of publicly known tokens, which appeared in examples and documentation."""


@dataclass(frozen=True)
class TokenEntry:
    """A person in a token file.

    Attributes:
        name: the name of the person.
        role: one of `ROLES`.
        expires: the time when the token expires, in seconds since 1970; infinite if it never does.
    """

    name: str
    role: str
    expires: float = math.inf


def digest_of(token: str) -> str:
    """Returns the SHA-256 of a token in the form that the file contains."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def read_tokens(file: Path) -> dict[str, TokenEntry]:
    """Returns the people in a file by the SHA-256 of their tokens, in lower case.

    Raises:
        InputError: the file cannot be read, users outside its group may read or change it, or an entry is not valid.
    """
    people: dict[str, TokenEntry] = {}
    names: set[str] = set()
    for number, entry in enumerate(_listed(file), 1):
        digest, person = _person(file, number, entry)
        if person.name in names:
            raise InputError(file, f"has two entries for {person.name}.", "Keep one, or give them different names.")
        if digest in people:
            problem = f"has the same token for {people[digest].name} and {person.name}."
            raise InputError(file, problem, f"Each person needs a separate token. {MAKE_ONE}")
        names.add(person.name)
        people[digest] = person
    return people


def shown_name(text: object) -> str:
    """Returns a name in one line, without invisible characters, cut to 100 characters; empty if the value is not a text.

    >>> shown_name("  Kim   Lee ")
    'Kim Lee'
    """
    if not isinstance(text, str):
        return ""
    visible = (" " if c.isspace() else c for c in text[: 10 * _NAME_CHARACTERS] if c.isspace() or is_visible(c))
    return " ".join("".join(visible).split())[:_NAME_CHARACTERS].strip()


def _listed(file: Path) -> list[Any]:
    """Returns the entries of a file that only its owner and group may use."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise InputError(file, "is not a file.", "Name a token file; see docs/access.md.")
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            content = stream.read(_MAX_BYTES + 1)
        if mode & 0o007:
            problem = f"may be read or changed by everybody on this machine (mode {mode & 0o777:04o})."
            raise InputError(file, problem, f"Restrict it to its owner and group: chmod 640 {file}")
        if len(content) > _MAX_BYTES:
            raise InputError(file, f"has more than {_MAX_BYTES} bytes.", "Check that it is a token file; see docs/access.md.")
        entries = yaml.safe_load(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(file, "cannot be read as tokens (it is not UTF-8 text).", "See docs/access.md.") from error
    except yaml.MarkedYAMLError as error:  # the error's text may quote a token
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(file, f"cannot be read as tokens (it is not YAML{line}).", "See docs/access.md.") from None
    except OSError as error:
        raise InputError(file, f"cannot be read as tokens ({error.strerror}).", "See docs/access.md.") from None
    except _YAML_ERRORS:
        problem = "cannot be read as tokens (it has an invalid date or number)."
        raise InputError(file, problem, "See docs/access.md.") from None
    if not isinstance(entries, list):
        raise InputError(file, "is not a list of tokens.", "See docs/access.md.")
    return entries


def _person(file: Path, number: int, entry: object) -> tuple[str, TokenEntry]:
    """Returns a token's SHA-256 and its person."""
    usual = "Each entry needs name, role, and token or sha256; expires is optional."
    if not isinstance(entry, dict):
        raise InputError(file, f"is not a list of tokens: entry {number} has no name.", usual)
    given = entry.get("name")
    name = str(given) if isinstance(given, (str, int)) and not isinstance(given, bool) else ""
    if not name or shown_name(name) != name:
        problem = "has no name" if not name.strip() else "has a name with invalid characters, or of more than 100"
        raise InputError(file, f"cannot be used: entry {number} {problem}.", usual)

    def refused(problem: str, remedy: str = usual) -> InputError:
        shown = f" ({name})" if len(name) < MIN_CHARACTERS else ""  # a longer name may be the token
        return InputError(file, f"cannot be used: entry {number}{shown} {problem}.", remedy)

    unknown = [key for key in entry if key not in _KEYS]
    if unknown:
        raise refused(f"has {_word(unknown[0])}, which is unknown")
    role = entry.get("role")
    if role not in ROLES:
        raise refused(f"has the role {_word(role)}", f"Choose from: {', '.join(ROLES)}.")
    digest = _digest(entry, refused)
    if digest in _EXAMPLES:
        raise refused("has the token of an example, which is publicly known", MAKE_ONE)
    return digest, TokenEntry(name, role, _end(entry.get("expires", math.inf), refused))


def _word(value: object) -> str:
    """Returns a value for a message, or "something" if it may be a token in the wrong field."""
    return repr(value) if isinstance(value, str) and re.fullmatch(r"\w{1,20}", value) else "something"


def _digest(entry: Mapping[Any, Any], refused: Callable[..., InputError]) -> str:
    if ("token" in entry) == ("sha256" in entry):
        raise refused("needs either token or sha256")
    secret = entry.get("token", entry.get("sha256"))
    if isinstance(secret, (int, float, date)):
        raise refused("has a token that YAML reads as a number or date", "Put it in quotes.")
    if not isinstance(secret, str) or secret.strip() != secret:
        raise refused("has no usable token", MAKE_ONE)
    if "sha256" in entry:
        if not re.fullmatch(r"[0-9A-Fa-f]{64}", secret):
            raise refused("has a sha256 that is not valid: it must be 64 characters of 0-9 and a-f")
        return secret.lower()
    if secret.startswith(_EXAMPLE):
        raise refused("has the token of an example, which is publicly known", MAKE_ONE)
    if len(secret) < MIN_CHARACTERS:
        raise refused(f"has a token of less than {MIN_CHARACTERS} characters, which can be guessed", MAKE_ONE)
    return digest_of(secret)


def _end(expires: object, refused: Callable[..., InputError]) -> float:
    """Returns the expiry of a token in seconds since 1970: a date is valid to its end, and times without a zone are UTC."""
    if expires is math.inf:
        return math.inf
    try:
        if isinstance(expires, str):
            expires = date.fromisoformat(expires) if len(expires) == 10 else datetime.fromisoformat(expires)
        if isinstance(expires, datetime):
            return (expires if expires.tzinfo else expires.replace(tzinfo=timezone.utc)).timestamp()
        if isinstance(expires, date):
            return datetime.combine(expires, time_of_day.max, timezone.utc).timestamp()
    except (ValueError, OverflowError):
        pass
    raise refused("has an `expires` that is not a date", "For example: expires: 2027-01-31, the token's last day (UTC).")


def is_visible(character: str) -> bool:
    """Returns whether a character is visible in a text: not a control character, a direction mark or a surrogate."""
    return not unicodedata.category(character).startswith("C")
