"""Names that clients send, exchanged for the server's own equal ones."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

_SHOWN = 40


def first(value: Any) -> Any:
    """Returns the first of a list, which viewers send unchanged if nobody has chosen; anything else as it is."""
    return value[0] if isinstance(value, list) and value else value


def one_of(value: Any, known: Collection[str], what: str) -> str:
    """Returns the name among `known` that a client means.

    Raises:
        ValueError: none is.
    """
    chosen = first(value)
    found = next((name for name in known if name == chosen), None)
    if found is None:
        more = f", and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        listed = ", ".join([str(name) for name in known][:_SHOWN]) or "none is there"
        raise ValueError(f"{ascii(chosen)[:60]} is no {what} of this server; choose from: {listed}{more}")
    return found


def each_of(values: Collection[Any], known: Collection[str], what: str) -> list[str]:
    """Returns the names among `known` that a client lists.

    Raises:
        ValueError: one is not among them.
    """
    own = {name: name for name in known}
    wrong = next((value for value in values if not isinstance(value, str) or value not in own), None)
    if wrong is not None:
        raise ValueError(f"{ascii(wrong)[:60]} is no {what} of this server")
    return [own[value] for value in values]
