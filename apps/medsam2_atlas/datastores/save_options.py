"""Options that a client sends with a label map, and that are not stored with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medsam2_atlas.base.errors import InputError
from tasks.replies import flag


@dataclass(frozen=True)
class SaveOptions:
    """How to save a label map.

    Attributes:
        author: who saves (`user`); empty if unknown.
        expected_version: the version that the change rests on; None if any.
        asks: whether the client asks the person itself before it confirms (it sends `confirm`, true or false).
        confirmed: whether the person has agreed to lose organs.
    """

    author: str
    expected_version: int | None
    asks: bool
    confirmed: bool


def save_options(info: Mapping[str, Any] | None) -> tuple[SaveOptions, dict[str, Any]]:
    """Separates the options from the rest, which is kept with the version.

    Raises:
        InputError: an invalid option.
    """
    kept = dict(info or {})
    expected, author = kept.pop("expected_version", None), str(kept.get("user") or "")
    asks, confirmed = "confirm" in kept, flag(kept, "confirm")
    kept.pop("confirm", None)
    try:
        number = None if expected is None else int(expected)
    except (TypeError, ValueError):
        raise InputError(repr(expected), "is not a version.", "Send the number that /datastore/label/info gave.") from None
    return SaveOptions(author, number, asks, confirmed), kept
