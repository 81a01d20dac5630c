"""Finds the organ of a segment from another program by the segment's name (one of many synonyms) or code."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, Field

from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.labels import Organ, OrganTable, organ_table

NAMES_FILE = "configs/segment_names.yaml"
SIDES = {"right": ("24028007", "Right"), "left": ("7771000", "Left")}
"""The SNOMED CT code and its meaning for each side."""

_MAX_LISTED, _MAX_SHOWN = 30, 60
_IGNORED = re.compile(r"[\s_-]+")


class SegmentNames(BaseModel):
    """Synonyms of the organs' names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: dict[str, tuple[str, ...]] = Field(
        description="names that other programs use for an organ, by its name in the table"
    )


def plain(name: str) -> str:
    """Returns the form of a name that is compared: without case, blanks, underscores and hyphens.

    >>> plain("Left_Kidney")
    'leftkidney'
    """
    return _IGNORED.sub("", unicodedata.normalize("NFKC", name).casefold())


@read_once
def organ_names(table: OrganTable | None = None, file: Path | None = None) -> Mapping[str, int]:
    """Returns a map from all names, synonyms and codes of the organs, in the form of `plain`, to organ numbers.

    Args:
        table: the organ table; `configs/labels.yaml` by default.
        file: the file of synonyms; `configs/segment_names.yaml` by default.

    Raises:
        InputError: the file is not valid, contains an organ that the table lacks, or gives one name to two organs.
    """
    path, table = file or resource(NAMES_FILE), table or organ_table()
    synonyms = read_config(SegmentNames, path, "list of segment names", f"Compare it with {NAMES_FILE}.").names
    if unknown := set(synonyms) - {organ.name for organ in (*table.organs, *organ_table().organs)}:
        raise InputError(path, f"has names for {listed(unknown)}, which the organ table lacks.", "Use the table's names.")
    found: dict[str, int] = {}
    for organ in table.organs:
        for name in (organ.name, organ.display, *synonyms.get(organ.name, ())):
            key = plain(name)
            if not key:
                raise InputError(path, f"has an empty name for {organ.name}.", "Remove it.")
            other = found.setdefault(key, organ.index)
            if other != organ.index:
                raise InputError(path, f"gives the name {name!r} to {table[other].name} and {organ.name}.", "Keep one of them.")
    return MappingProxyType(found)


def organ_named(name: str, table: OrganTable | None = None) -> int:
    """Returns the number of the organ with a name or synonym; 0 if there is none."""
    return organ_names(table).get(plain(name), 0)


def organ_coded(code: str, modifiers: Collection[str], table: OrganTable | None = None) -> int:
    """Returns the number of the organ with a code; 0 if there is none.

    Args:
        code: the organ's code, as SCHEME:VALUE.
        modifiers: values of the modifier codes, such as the side. A paired organ needs its side.
        table: the organ table; `configs/labels.yaml` by default.
    """
    for organ in (table or organ_table()).organs:
        side = side_code(organ)
        if code and code == organ.code and (not side or side in modifiers):
            return organ.index
    return organ_names(table).get(plain(code), 0) if ":" in code else 0


def side_code(organ: Organ) -> str:
    """Returns the code value of an organ's side; empty for an organ that is not paired."""
    return SIDES.get(organ.name.split("_", 1)[0], ("", ""))[0]


def listed(names: Collection[str]) -> str:
    """Returns names of segments for a message, shortened if they are long or many."""
    shown = [repr(name) if len(name) <= _MAX_SHOWN else repr(name[:_MAX_SHOWN]) + "…" for name in list(names)[:_MAX_LISTED]]
    return ", ".join(shown) + (f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else "")


def remedy(table: OrganTable | None = None) -> str:
    """Returns the remedy for segments that are not organs, for error messages."""
    organs = ", ".join(organ.display for organ in (table or organ_table()).organs)
    return f"Rename or remove them, or add their names to {NAMES_FILE}. Organs are {organs}."
