"""Reads and writes standard JSON. Python's `json` also reads and writes NaN and infinity, which other programs refuse.

`from_json` reads texts from outside and refuses values that JSON cannot represent. `to_json` writes all content and replaces
such values, so that one odd value never makes a response fail. `stored_json` reads the server's own files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

MAX_DEPTH = 32
"""Max depth of nested objects and lists."""
_MAX_STORED_DEPTH = 250
"""The same for the server's own files. Earlier versions limited it less. Python copies a few hundred levels at most."""
_MAX_INTEGER = 2**63


def from_json(text: str | bytes) -> Any:
    """Returns the content of a JSON text.

    Raises:
        ValueError: the text is malformed, contains NaN, infinity, an integer of more than 64 bits or half of a surrogate pair,
            or is nested more than 32 levels deep.
    """
    try:
        content = json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError(f"more than {MAX_DEPTH} levels") from error
    _check(content, MAX_DEPTH)
    json.dumps(content, ensure_ascii=False).encode()
    return content


def stored_json(text: str | bytes) -> Any:
    """Returns the content of a JSON text in a file of this server. It may contain NaN, as files of earlier versions do.

    Raises:
        ValueError: the text is malformed, or nested so deep that it could not be copied.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    opening = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, opening)) > _MAX_STORED_DEPTH and _is_deeper(content, _MAX_STORED_DEPTH):  # type: ignore[arg-type]
        raise ValueError("it is nested too deep")
    return content


def to_json(content: Any) -> str:
    """Returns content as compact JSON; NaN, infinity and values that are nested too deep become null.

    >>> to_json({"Dice": 0.9, "HD95": float("nan")})
    '{"Dice":0.9,"HD95":null}'
    """
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (ValueError, RecursionError):
        return json.dumps(plain(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text


def plain(content: Any, depth: int = MAX_DEPTH) -> Any:
    """Returns a copy of content for JSON: NaN, infinity and values nested too deep become None, and all text can be encoded.

    Args:
        content: strings, numbers, mappings and sequences.
        depth: max depth of nested mappings and sequences.
    """
    if isinstance(content, str):
        return content.encode("utf-8", "replace").decode()
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {plain(key): plain(value, depth - 1) for key, value in content.items()} if depth else None
    if isinstance(content, (list, tuple)):
        return [plain(value, depth - 1) for value in content] if depth else None
    return content


def _is_deeper(content: Any, depth: int) -> bool:
    """Returns whether objects and lists are nested more than `depth` levels deep."""
    level = [content]
    for _ in range(depth + 1):
        inner = (entry.values() if isinstance(entry, dict) else entry for entry in level if isinstance(entry, (dict, list)))
        level = [value for values in inner for value in values]
        if not level:
            return False
    return True


def _check(content: Any, depth: int) -> None:
    if isinstance(content, bool) or content is None:
        return
    if isinstance(content, float) and not math.isfinite(content):
        raise ValueError("a number is too large")
    if isinstance(content, int) and not -_MAX_INTEGER <= content < 2 * _MAX_INTEGER:
        raise ValueError("an integer has more than 64 bits")
    if isinstance(content, (dict, list)):
        if not depth:
            raise ValueError(f"more than {MAX_DEPTH} levels")
        for value in content.values() if isinstance(content, dict) else content:
            _check(value, depth - 1)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed in JSON")
