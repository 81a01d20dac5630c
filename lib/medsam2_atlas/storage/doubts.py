"""Messages about label maps whose image was replaced, and about images and label maps that a folder contains twice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from medsam2_atlas.storage.lineage import Version


def image_problem(version: Version, image: str, stamp: str, compared: bool) -> str:
    """Returns the problem of a label map that was drawn on another image file than the current one.

    Args:
        version: the version of the label map.
        image: the name of the current image file.
        stamp: its stamp, see `folder.stamp`.
        compared: whether the comparison is finished: voxels or grid differ, or those of the previous image are unknown.
    """
    changed = f"{image}, changed {_time_of(stamp)},"
    if not compared:
        return f"may belong to another image: {changed} is being compared with the image that it was drawn on."
    drawn = f"version {version.number} was {'made' if version.origin == 'model' else 'drawn'} on"
    text = f"belongs to another image: {changed} is not the one that {drawn}."
    if version.origin == "model":
        return f"{text} Restore the previous image, or run the model again."
    return f"{text} Restore the previous image, save the label map again, confirm it (`labels confirm`), or remove it."


def doubled_problem(version: Version) -> str:
    """Returns the problem of a label map that was found in several files under one tag."""
    others = " and ".join(version.doubled)
    return (
        f"was found in several files: {others} had different content than the newest file, which is version "
        f"{version.number}. The other files are the versions before it. Confirm the newest (`labels confirm`), restore another "
        "version, or save the label map again."
    )


def twins_note(names: Sequence[str]) -> str:
    """Returns the note on several files of one image."""
    return f"has {len(names)} files of the same image, {_listed(names)}; {names[-1]} is used. The others can be removed."


def beside_note(why: str) -> str:
    """Returns the note on a study that shares its name with an unsupported file or folder.

    An example is the DICOM folder that the image was converted from.

    Args:
        why: why the file or folder is not used.
    """
    return f"has a file or folder of the same name beside it that {why}"


def twins_problem(names: Sequence[str], why: str | None) -> str:
    """Returns the problem of a study with several image files.

    Args:
        names: the names of the files.
        why: the result of their comparison; None before it.
    """
    if why is None:
        return f"has {len(names)} files, {_listed(names)}. None of them is used until they have been compared."
    return f"has {len(names)} files, {_listed(names)}: {why} None of them is used. Rename the files, or remove all but one."


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _time_of(stamp: str) -> str:
    """Returns the time of a file's last change on its disk, taken from its stamp."""
    try:
        moment = datetime.fromtimestamp(int(stamp.split("-")[2]) / 1e9, timezone.utc)
    except (ValueError, IndexError, OverflowError, OSError):
        return "at an unknown time"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
