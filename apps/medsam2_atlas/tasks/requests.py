"""Reads a segmenter's options and a person's marks from a client's request."""

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
"""Keys of a request that contain marks, not settings.

3D Slicer and OHIF send all points on the organ (`foreground`) and outside of it (`background`) with each request, as voxel
indices (x, y, z) of the file. Each of the `boxes` consists of two opposite corners.
"""


def options_of(request: Mapping[str, Any], segmenter: Segmenter) -> Options:
    """Returns the options in a request; options that the segmenter does not have are ignored.

    Raises:
        InputError: an organ, a source of prompts or a mode is not available.
    """
    available = segmenter.available_options()
    found: dict[str, Any] = {}
    if "organs" in available:
        found["organs"] = replies.organs(request)
    if "prompts" in available:
        found["prompts"] = replies.choice(request, "prompts", available["prompts"])
    if "mode" in available:
        found["mode"] = replies.choice(request, "mode", available["mode"])
    if "weights" in available:
        found["weights"] = replies.text(request, "weights")
    if "augment" in available:
        found["augment"] = replies.flag(request, "augment")
    return Options(**found)


def marks_of(request: Mapping[str, Any], image: Volume) -> MarkedOrgan:
    """Returns the organ and the marks of a request, converted to voxel indices of the CT in LPS orientation.

    Args:
        request: the request, with marks as voxel indices (x, y, z) of the file.
        image: the CT on which the marks were drawn.

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
    """Returns the number of the organ `label`.

    The default is the first organ: OHIF sends no name, because it writes the result into the segment that the user selected.
    """
    name = replies.text(request, "label")
    return organ_table().select([name])[0] if name else organ_table().indices[0]


def _listed(request: Mapping[str, Any], key: str) -> list[Any]:
    """Returns a list in a request, which may be sent as JSON text; empty by default."""
    value = request.get(key) or []
    if isinstance(value, str):
        try:
            value = from_json(value)
        except ValueError as error:
            raise InputError(key, "is not a list.", "Send voxel indices [[x, y, z], …].") from error
    if not isinstance(value, list):
        raise InputError(key, "is not a list.", "Send voxel indices [[x, y, z], …].")
    return value


def _reach(request: Mapping[str, Any]) -> float | None:
    """Returns the option `reach` in mm; None if it is empty."""
    text = replies.text(request, "reach")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise InputError(text[:40], "is not a valid reach.", "Give a distance in mm, or leave it empty.")
    return value
