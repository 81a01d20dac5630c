"""Turns a client's request to a model into a segmenter and its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.json_text import from_json
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.prompting import MarkedOrgan, marked_organ
from medsam2_atlas.segmenters.base import Options, Segmenter
from tasks import replies

CLICKS = frozenset({"label", "foreground", "background", "boxes"})
"""Keys of a request that belong to a click, not to a setting.

3D Slicer and OHIF send points on the organ (`foreground`) and off it (`background`) as voxel indices (x, y, z) of the file,
all of them each time; `boxes` are two opposite corners each.
"""


def options_of(request: Mapping[str, Any], segmenter: Segmenter) -> Options:
    """Returns a request's options. Only what the segmenter offers is read.

    Raises:
        InputError: an organ, a source of prompts or weights that the segmenter does not offer.
    """
    offers = segmenter.available_options()
    found: dict[str, Any] = {}
    if "organs" in offers:
        found["organs"] = replies.organs(request)
    if "prompts" in offers:
        found["prompts"] = replies.choice(request, "prompts", offers["prompts"])
    if "weights" in offers:
        found["weights"] = replies.text(request, "weights")
    if "augment" in offers:
        found["augment"] = replies.flag(request, "augment")
    return Options(**found)


def marks_of(request: Mapping[str, Any], image: Volume) -> MarkedOrgan:
    """Returns what a person has marked, in voxel indices of the CT.

    Raises:
        InputError: no mark lies on the organ, or a mark cannot be used.
    """
    return marked_organ(
        image,
        _organ(request),
        boxes=_listed(request, "boxes"),
        inside=_listed(request, "foreground"),
        outside=_listed(request, "background"),
        reach=_reach(request),
    )


def _organ(request: Mapping[str, Any]) -> int:
    """Returns the organ's number. OHIF names none, as it puts the result into the segment that is chosen there: the first."""
    name = replies.text(request, "label")
    return organ_table().select([name])[0] if name else organ_table().indices[0]


def _listed(request: Mapping[str, Any], key: str) -> list[Any]:
    value = request.get(key) or []
    if isinstance(value, str):
        try:
            value = from_json(value)
        except ValueError as error:
            raise InputError(key, "is no list.", "Send voxel indices [[x, y, z], …].") from error
    if not isinstance(value, list):
        raise InputError(key, "is no list.", "Send voxel indices [[x, y, z], …].")
    return value


def _reach(request: Mapping[str, Any]) -> float | None:
    text = replies.text(request, "reach")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise InputError(text[:40], "is no reach.", "Give millimetres, or leave it empty.")
    return value
