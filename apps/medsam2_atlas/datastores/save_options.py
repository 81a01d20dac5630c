"""Reads the options for saving a label map from the information that a client sends with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medsam2_atlas.base.errors import InputError
from tasks.replies import flag


@dataclass(frozen=True)
class SaveOptions:
    """Options for saving a label map.

    Attributes:
        author: name of the person who saves (`user`); empty if unknown.
        expected_version: number of the version that the person has edited; None if any version is accepted.
        client_asks: whether the client itself asks the person for confirmation; it then sends `confirm`, true or false.
        confirmed: whether the person has confirmed that organs are removed.
    """

    author: str
    expected_version: int | None
    client_asks: bool
    confirmed: bool


def save_options(info: Mapping[str, Any] | None) -> tuple[SaveOptions, dict[str, Any]]:
    """Returns the options in a client's information, and the remaining information, which is stored with the version.

    Raises:
        InputError: an option is invalid.
    """
    kept = dict(info or {})
    expected, author = kept.pop("expected_version", None), str(kept.get("user") or "")
    asks, confirmed = "confirm" in kept, flag(kept, "confirm")
    kept.pop("confirm", None)
    try:
        number = None if expected is None else int(expected)
    except (TypeError, ValueError):
        raise InputError(repr(expected), "is not a version.", "Send the `version` from /datastore/label/info.") from None
    return SaveOptions(author, number, asks, confirmed), kept
