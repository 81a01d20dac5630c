"""Searches of DICOMweb (QIDO-RS, PS3.18, 8.3.4): filters, limit and offset of a list of studies, series or instances.

A filter compares an attribute with a UID list, a range of dates, or a text with the wildcards `*` and `?`. Texts are compared
without regard to case. `fuzzymatching` has no effect: the standard lets a server match literally. `includefield` has none
either, because answers always contain all attributes that the server knows.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from medsam2_atlas.base.errors import InputError

_NO_FILTERS = frozenset({"limit", "offset", "includefield", "fuzzymatching", "emptyvaluematching", "multiplevaluematching"})
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_MAX_TEXT = 256
_MAX_UIDS = 1000


@dataclass(frozen=True)
class Query:
    """A search.

    Attributes:
        filters: the value to compare with, by tag as eight hexadecimal digits.
        limit: max number of results; None for all.
        offset: number of results to skip.
    """

    filters: Mapping[str, str]
    limit: int | None = None
    offset: int = 0

    def matches(self, item: Mapping[str, Any]) -> bool:
        """Returns whether an object of DICOM JSON fits all filters. An attribute that the object does not have fits."""
        return all(_fits(wanted, item[tag]) for tag, wanted in self.filters.items() if tag in item)

    def page(self, items: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Returns the matching objects from `offset` on, at most `limit`. Requests no further items once it has them."""
        found: list[Mapping[str, Any]] = []
        skipped = 0
        if self.limit == 0:
            return found
        for item in items:
            if not self.matches(item):
                continue
            if skipped < self.offset:
                skipped += 1
                continue
            found.append(item)
            if self.limit is not None and len(found) >= self.limit:
                break
        return found


def parse_query(parameters: Sequence[tuple[str, str]]) -> Query:
    """Returns the search in the parameters of a request. Unknown parameters are ignored, as by other DICOMweb servers.

    Raises:
        InputError: limit or offset is not a number, or a filter is too long.
    """
    filters: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for name, value in parameters:
        key = name.lower()
        if key in ("limit", "offset"):
            if not _NUMBER.fullmatch(value.strip()):
                raise InputError(key, f"is {value[:20]!r}, not a number.", "Give a whole number, such as 100.")
            numbers[key] = int(value)
        elif key not in _NO_FILTERS and (tag := _tag(name)):
            if len(value) > _MAX_TEXT and dictionary_VR(int(tag, 16)) != "UI":
                raise InputError(name[:40], f"has more than {_MAX_TEXT} characters.", "Search for a shorter text.")
            if value:
                filters[tag] = value
    return Query(filters, numbers.get("limit"), numbers.get("offset", 0))


def _tag(name: str) -> str:
    """Returns the tag of a keyword or of eight hexadecimal digits, as digits; empty if it is not a known attribute."""
    if _TAG.fullmatch(name) and keyword_for_tag(int(name, 16)):
        return name.upper()
    number = tag_for_keyword(name)
    return "" if number is None else f"{number:08X}"


def _fits(wanted: str, attribute: Mapping[str, Any]) -> bool:
    values = [_text(value) for value in attribute.get("Value") or [""]]
    kind = attribute.get("vr")
    if kind == "UI":
        uids = set(re.split(r"[,\\]", wanted)[:_MAX_UIDS])
        return bool(uids.intersection(values))
    if kind in ("DA", "TM") and "-" in wanted:
        first, _, last = wanted.partition("-")
        return any(value and (not first or value >= first) and (not last or value[: len(last)] <= last) for value in values)
    if wanted.strip("*") == "":
        return True
    if kind == "CS":
        return any(_like(one, values) for one in re.split(r"[,\\]", wanted))
    return _like(wanted, values)


def _like(wanted: str, values: Sequence[str]) -> bool:
    pattern = re.compile(_regex(wanted), re.IGNORECASE)
    return any(pattern.fullmatch(value) for value in values)


def _regex(wanted: str) -> str:
    """Returns a regular expression for a text with `*` and `?`. Runs of `*` become one, so that matching stays fast."""
    return fnmatch.translate(re.sub(r"\*+", "*", wanted).replace("[", "[[]"))


def _text(value: Any) -> str:
    return str(value.get("Alphabetic", "")) if isinstance(value, dict) else str(value)
