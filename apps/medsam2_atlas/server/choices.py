"""Replaces names that clients send with the server's own equal strings, so that no text of a client is passed on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

_SHOWN = 40


def first(value: Any) -> Any:
    """Returns the first item of a list, or any other value unchanged.

    Viewers send the whole list of choices if the user has not chosen.
    """
    return value[0] if isinstance(value, list) and value else value


def one_of(value: Any, known: Collection[str], what: str) -> str:
    """Returns the name in `known` that equals a client's value.

    Args:
        value: the client's value; of a list, its first item counts.
        known: the valid names.
        what: kind of name for the error message, such as "study".

    Raises:
        ValueError: no name equals the value.
    """
    chosen = first(value)
    found = next((name for name in known if name == chosen), None)
    if found is None:
        more = f", and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        listed = ", ".join([str(name) for name in known][:_SHOWN]) or "(there are none)"
        raise ValueError(f"{ascii(chosen)[:60]} is no {what} of this server; choose from: {listed}{more}")
    return found


def each_of(values: Collection[Any], known: Collection[str], what: str) -> list[str]:
    """Returns the names in `known` that equal a client's values, in the client's order.

    Args:
        values: the client's values.
        known: the valid names.
        what: kind of name for the error message, such as "study".

    Raises:
        ValueError: a value equals no name.
    """
    own = {name: name for name in known}
    wrong = next((value for value in values if not isinstance(value, str) or value not in own), None)
    if wrong is not None:
        raise ValueError(f"{ascii(wrong)[:60]} is no {what} of this server")
    return [own[value] for value in values]
