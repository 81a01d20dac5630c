"""Reads a segmenter's options and a person's marks from a client's request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.json_text import from_json
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume, read_labels
from medsam2_atlas.prompting import MarkedOrgan, MaskedOrgan, marked_organ, masked_organ
from medsam2_atlas.segmenters.base import Options, Segmenter
from tasks import replies

CLICKS = frozenset({"label", "foreground", "background", "boxes", "objects"})
"""Keys of a request that contain marks, not settings.

3D Slicer and OHIF send all points on the organ (`foreground`) and outside of it (`background`) with each request, as voxel
indices (x, y, z) of the file. Each of the `boxes` consists of two opposite corners. A request for several organs contains
`objects` instead: a list of objects with these four keys, one for each organ.
"""
_MARKS = CLICKS - {"label", "objects"}

MASK = frozenset({"mask", "mask_version"})
"""Keys of a request that name the mask to refine: the tag of a stored label map of the study, and the number of its version."""


@dataclass(frozen=True)
class GivenMask:
    """The label map that contains the mask to refine. Only the server creates it; clients cannot name files.

    Attributes:
        file: the label map.
        source: its origin, for messages and reports.
        uploaded: whether the file came with the request, and is removed after it.
    """

    file: Path
    source: str
    uploaded: bool = False


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


def marks_of(request: Mapping[str, Any], image: Volume) -> list[MarkedOrgan]:
    """Returns the organs and marks of a request, converted to voxel indices of the CT in LPS orientation; at least one organ.

    Args:
        request: the request, with marks as voxel indices (x, y, z) of the file.
        image: the CT on which the marks were drawn.

    Raises:
        InputError: no mark lies on an organ, a mark cannot be used, or an organ appears twice.
    """
    reach, found = _reach(request), dict[int, MarkedOrgan]()
    for one in _objects(request):
        label = _organ(one)
        if label in found:
            raise InputError("objects", f"contains {organ_table()[label].name} twice.", "Send all marks of an organ together.")
        found[label] = marked_organ(
            image,
            label,
            boxes=_listed(one, "boxes"),
            inside=_listed(one, "foreground"),
            outside=_listed(one, "background"),
            reach=reach,
        )
    return list(found.values())


def _objects(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the parts of a request that mark one organ each: its `objects`, or else the request itself."""
    objects = _listed(request, "objects")
    if not objects:
        return [request]
    if any(_listed(request, key) for key in _MARKS):
        raise InputError("objects", "cannot be combined with other marks.", "Send the marks of all organs in `objects`.")
    if len(objects) > len(organ_table().organs):
        raise InputError("objects", "contains more entries than there are organs.", "Send one entry for each organ.")
    if not all(isinstance(one, dict) and one.get("label") and set(one) <= _MARKS | {"label"} for one in objects):
        problem = "is not a list of organs with `label`, `boxes`, `foreground` and `background`."
        raise InputError("objects", problem, "Send the name and the marks of each organ.")
    return objects


def masked_of(request: Mapping[str, Any], image: Volume, given: GivenMask) -> MaskedOrgan:
    """Returns the mask of the request's organ, and the marks that correct it, in LPS orientation.

    Args:
        request: the request; its marks are optional.
        image: the CT.
        given: the label map; only the voxels of the organ count.

    Raises:
        InputError: the label map cannot be read, is not on the grid of the image, or does not contain the organ; a mark cannot
            be used; or the request contains several organs.
    """
    if _listed(request, "objects"):
        raise InputError("mask", "cannot be combined with `objects`.", "Refine the organs one after the other.")
    label = _organ(request)
    marks = {"boxes": "boxes", "inside": "foreground", "outside": "background"}
    return masked_organ(
        image,
        read_labels(given.file, image),
        label,
        **{kind: _listed(request, key) for kind, key in marks.items()},
        reach=_reach(request),
        source=given.source,
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
