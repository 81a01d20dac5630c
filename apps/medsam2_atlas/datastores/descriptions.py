"""Descriptions of a store's images and label maps for clients, in MONAI Label's formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsam2_atlas.base.json_text import plain
from medsam2_atlas.storage import Image, Label, suffix_of


def image_info(image: Image) -> dict[str, Any]:
    """Returns the description of an image for clients."""
    info = plain({**image.info, "name": image.file.name})
    if "strategy" in info:  # MONAI Label adds to it whenever it assigns the case
        info["strategy"] = given_to(info)
    return info


def label_info(label: Label) -> dict[str, Any]:
    """Returns the description of a label map for clients."""
    version = label.version
    return {
        **plain(dict(version.info)),
        "name": label.file.name,
        "version": version.number,
        "origin": version.origin,
        "author": version.author,
        "made": version.made,
        "sha256": version.sha256,
        "accepted": dict(version.accepted) or None,
        **({"problem": label.problem} if label.problem else {}),
    }


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


def given_to(info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the assignments of a case by strategy, with client and time (`ts`). Clients write them too, so invalid entries
    are left out."""
    given = info.get("strategy")
    entries = given.items() if isinstance(given, Mapping) else ()
    return {
        str(name): dict(entry)
        for name, entry in entries
        if isinstance(entry, Mapping) and isinstance(entry.get("ts"), (int, float))
    }


def measured_before(labels: Mapping[str, Label]) -> bool:
    """Returns whether a study's predictions, and so its measures, are of an image that was replaced since.

    `labels` are its label maps by tag.
    """
    made = [label for label in labels.values() if label.version.origin == "model"]
    return bool(made) and all(label.unsure for label in made)


def _written_suffix(file: Path) -> str:
    """Returns a file's suffix as it is written in its name."""
    return file.name[-len(suffix_of(file.name, labels=True)) :]
