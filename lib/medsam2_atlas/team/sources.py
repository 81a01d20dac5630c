"""Which label maps may be compared: what a version was made from, as far as its record tells.

A record names the version that its author began with only if the label map was signed off in the annotator's viewer. For other
label maps, such as those from 3D Slicer or of another program, this is unknown, and nothing is derived from them.

A prediction is compared with a `final` version only if it was stored before the first `final` version of the study. The model
cannot have learnt from any `final` version of the study then: the atlas and the U-Nets learn from these only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.storage import Version, time_of


@dataclass(frozen=True)
class Source:
    """What a version was made from.

    Attributes:
        tag: tag of the version that its author began with; empty for an empty label map.
        number: number of that version; 0 for an empty label map.
    """

    tag: str = ""
    number: int = 0


Find = Callable[[str, int], Version | None]
"""Returns the version of a tag and number; None if it cannot be read."""


def own_versions(finals: Sequence[Version]) -> list[Version]:
    """Returns the versions that a person drew. Others were found, restored or confirmed, or record a removal."""
    return [version for version in finals if version.origin == "person" and "confirmed" not in version.info]


def source_of(version: Version) -> Source | None:
    """Returns what a version was made from; None if it is unknown.

    >>> source_of(Version(2, "f", "", "person", info={"from": "viewer", "base": {"tag": "final", "version": 1}}))
    Source(tag='final', number=1)
    """
    info = version.info
    for key in ("restored_from", "confirmed"):  # the same content as an earlier version
        if isinstance(info.get(key), int):
            return Source(FINAL, int(info[key]))
    if version.origin != "person" or info.get("from") != "viewer" or "base" not in info:
        return None
    base = info["base"]
    if base is None:
        return Source()
    if isinstance(base, Mapping) and isinstance(base.get("tag"), str) and isinstance(base.get("version"), int):
        return Source(base["tag"], base["version"])
    return None


def first_source(version: Version, find: Find) -> Source | None:
    """Returns the prediction from which a `final` version was made, directly or by way of further `final` versions.

    Args:
        version: a `final` version.
        find: finds versions of the study.

    Returns:
        The source without a tag if it was made from an empty label map; None if a record on the way does not tell.
    """
    line = sources_of(version, find)
    return line[-1] if line and line[-1].tag != FINAL else None


def sources_of(version: Version, find: Find) -> list[Source]:
    """Returns what a `final` version was made from, what that was made from, and so on, as far as the records tell.

    Args:
        version: a `final` version.
        find: finds versions of the study.
    """
    line: list[Source] = []
    at: Version | None = version
    while at is not None and (source := source_of(at)) is not None and source not in line:
        line.append(source)
        at = find(FINAL, source.number) if source.tag == FINAL else None
    return line


def unseen_prediction(predictions: Sequence[Version], finals: Sequence[Version]) -> Version | None:
    """Returns a model's newest prediction that was stored before anybody signed off the study; None if there is none.

    Args:
        predictions: all versions under the model's tag, in ascending order.
        finals: all versions under `final`, in ascending order.
    """
    first = time_of(finals[0].made) if finals else None
    if first is None:
        return None
    for version in reversed(predictions):
        made = time_of(version.made)
        same_image = "" in (version.image_sha256, finals[0].image_sha256) or version.image_sha256 == finals[0].image_sha256
        if version.origin == "model" and not version.removed and made is not None and made < first and same_image:
            return version
    return None


def independent_of(later: Version, earlier: Version, first: Version, find: Find) -> bool | None:
    """Returns whether a `final` version was made without an earlier one; None if the records do not tell.

    Args:
        later: the later version.
        earlier: the earlier version.
        first: the first `final` version of the study. A prediction that was stored after it may be made from it.
        find: finds versions of the study.
    """
    version, seen = later, {later.number}
    while True:
        source = source_of(version)
        if source is None:
            return None
        if not source.tag:
            return True
        found = find(source.tag, source.number)
        if found is None:
            return None
        if source.tag != FINAL:
            made, began = time_of(found.made), time_of(first.made)
            return True if found.origin == "model" and made is not None and began is not None and made < began else None
        if found.number == earlier.number or (found.sha256 and found.sha256 == earlier.sha256):
            return False
        if found.number < earlier.number:  # it existed before, so neither it nor its sources can be made from the earlier one
            return True
        if found.number in seen:
            return None
        seen.add(found.number)
        version = found
