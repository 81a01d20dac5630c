"""Texts for label maps whose image was replaced, and for images and label maps that lie in a folder twice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from medsam2_atlas.storage.lineage import Version


def image_problem(version: Version, image: str, stamp: str, compared: bool) -> str:
    """Returns the problem of a label map that was drawn on another file than the image that is there now.

    Args:
        version: of the label map.
        image: name of the file that is there now.
        stamp: of that file, see `folder.stamp`.
        compared: whether its voxels or grid are known to differ, or the former ones are not known.
    """
    changed = f"{image}, changed {_time_of(stamp)},"
    if not compared:
        return f"may belong to another image: {changed} is still being compared with the one that it was drawn on."
    drawn = f"version {version.number} was {'made' if version.origin == 'model' else 'drawn'} on"
    text = f"belongs to another image: {changed} is not the one that {drawn}."
    if version.origin == "model":
        return f"{text} Bring the former image back, or run the model again."
    return f"{text} Bring the former image back, save the label map again, confirm it (`labels confirm`), or remove it."


def doubled_problem(version: Version) -> str:
    """Returns the problem of a label map that was found in several files under one tag."""
    others = " and ".join(version.doubled)
    return (
        f"was found twice: {others} lay beside it and differ; it is version {version.number}, the others are the versions "
        "before. Confirm it (`labels confirm`), restore one of the others, or save the label map again."
    )


def twins_note(names: Sequence[str]) -> str:
    """Returns the note on several files of one image."""
    return f"has {len(names)} files of the same image, {_listed(names)}; {names[-1]} is used. The others can be taken out."


def beside_note(why: str) -> str:
    """Returns the note on a study of whose name there is something else, such as the DICOM folder that it was converted from.

    `why` is why that is not taken.
    """
    return f"has something of the same name beside it that {why}"


def twins_problem(names: Sequence[str], why: str | None) -> str:
    """Returns the problem of a study with several image files. why: what their comparison has found; None before it."""
    if why is None:
        return f"has {len(names)} files, {_listed(names)}, which are being compared; none of them is used until then."
    return f"has {len(names)} files, {_listed(names)}: {why} None of them is used. Rename the files, or take all but one out."


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _time_of(stamp: str) -> str:
    """Returns when a file last changed on its disk, by its stamp."""
    try:
        moment = datetime.fromtimestamp(int(stamp.split("-")[2]) / 1e9, timezone.utc)
    except (ValueError, IndexError, OverflowError, OSError):
        return "at an unknown time"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
