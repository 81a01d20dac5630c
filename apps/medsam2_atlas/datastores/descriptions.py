"""Describes a store's images and label maps for clients, in MONAI Label's formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsam2_atlas.base.json_text import plain, stored_json
from medsam2_atlas.storage import Image, Label, suffix_of

_MAX_TIME = 1e12
"""Seconds since 1970; a larger number is no time, and may be too large for arithmetic."""


def image_info(image: Image) -> dict[str, Any]:
    """Returns the description of an image for clients."""
    info = plain({**image.info, "name": image.file.name})
    if "strategy" in info:  # MONAI Label adds an entry whenever it assigns the case to a client
        info["strategy"] = assignments(info)
    return info


def label_info(label: Label) -> dict[str, Any]:
    """Returns the description of a label map for all clients, without the active time of its author."""
    version = label.version
    return {
        **plain(without_work(version.info)),
        "name": label.file.name,
        "version": version.number,
        "origin": version.origin,
        "author": version.author,
        "made": version.made,
        "sha256": version.sha256,
        "accepted": dict(version.accepted) or None,
        "returned": dict(version.returned) or None,
        **({"problem": label.problem} if label.problem else {}),
    }


def without_work(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the information about a version without the active time of its author, which is not for colleagues."""
    return {key: value for key, value in info.items() if key != "work"}


def stored_about(file: Path) -> dict[str, Any]:
    """Returns the name and the description that clients have given to the studies; empty if there are none."""
    try:
        about = stored_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the file is missing or damaged; the defaults apply
        return {}
    return about if isinstance(about, dict) else {}


def described_studies(images: Mapping[str, Image], labels: Mapping[str, Mapping[str, Label]]) -> dict[str, dict[str, Any]]:
    """Returns images and label maps by study, in the format of MONAI Label's own index."""
    return {
        study: {
            "image": {"ext": _written_suffix(image.file), "info": {**plain(image.info), "name": image.file.name}},
            "labels": {
                tag: {"ext": _written_suffix(label.file), "info": label_info(label)}
                for tag, label in sorted(labels.get(study, {}).items())
            },
        }
        for study, image in images.items()
    }


def assignments(info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the assignments of a case by strategy, with `client_id` and time (`ts`, seconds since 1970).

    Invalid entries are left out, because clients can write them too.

    Example:
        >>> assignments({"strategy": {"random": {"ts": 1.8e9, "client_id": "kim"}, "first": "x"}})
        {'random': {'ts': 1800000000.0, 'client_id': 'kim'}}
    """
    strategies = info.get("strategy")
    entries = strategies.items() if isinstance(strategies, Mapping) else ()
    return {
        str(name): dict(entry)
        for name, entry in entries
        if isinstance(entry, Mapping) and isinstance(entry.get("ts"), (int, float)) and abs(entry["ts"]) < _MAX_TIME
    }


def predictions_outdated(labels: Mapping[str, Label]) -> bool:
    """Returns whether the image was replaced after a study's predictions were made, so that its measures are outdated too.

    Args:
        labels: label maps of the study, by tag.
    """
    made = [label for label in labels.values() if label.version.origin == "model"]
    return bool(made) and all(label.unsure for label in made)


def _written_suffix(file: Path) -> str:
    """Returns the suffix in a file's name, in its original case."""
    return file.name[-len(suffix_of(file.name, labels=True)) :]
