"""Gives the outputs of a batch names: safe as file names, different for different inputs, and the same in every run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

_UNSAFE = re.compile(r"[^\w.+-]+|[/\\]+")
_MAX_BYTES = 120
"""File systems allow 255 bytes; suffixes, temporary names and the digest of a second name need the rest."""


def safe_name(text: str) -> str:
    """Returns a file name for a path or a text from outside: one component, printable, without a dot at its start.

    >>> safe_name("ward 3/../CT,1")
    'ward_3_.._CT_1'
    >>> safe_name("../..")
    'case'
    """
    name = _UNSAFE.sub("_", "".join(c for c in text if c.isprintable())).strip("._-+ ")
    while len(name.encode()) > _MAX_BYTES:
        name = name[:-1]
    return name or "case"


def is_safe_name(text: str) -> bool:
    """Returns whether a text from outside can be a file name as `Names` gives it."""
    plain = text.isprintable() and not _UNSAFE.search(text) and not text.startswith((".", "-"))
    return plain and 0 < len(text.encode()) < _MAX_BYTES + 20


class Names:
    """The names of a batch's outputs. Two inputs never share a name, not even on file systems that ignore case.

    Args:
        known: names of earlier runs by id; they are kept, so that new inputs never rename old outputs.
    """

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        self._known = dict(known or {})
        self._taken = {name.casefold(): key for key, name in self._known.items()}

    def of(self, key: str, wished: str) -> str:
        """Returns the name of an input.

        Args:
            key: the id of the input.
            wished: the text to make the name from. If another input has that name, a digest of the id is appended.
        """
        if key in self._known and self._taken[self._known[key].casefold()] == key:
            return self._known[key]
        name = safe_name(wished)
        if self._taken.get(name.casefold(), key) != key:
            name = f"{name}-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:10]}"
        self._known[key] = name
        self._taken[name.casefold()] = key
        return name
