"""What a server says of its tasks: one that fails says why, and the others are described all the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from medsam2_atlas.errors import MedSAM2AtlasError

log = logging.getLogger(__name__)


def described(tasks: Mapping[str, Any], tell: Callable[[Any], Any], missing: dict[str, str], what: str = "") -> dict[str, Any]:
    """Returns what each task says of itself, by name.

    Args:
        tasks: by name; those that `missing` names are left out.
        tell: asks a task.
        missing: gets the reason of each task that fails, under its name.
        what: kind of the tasks, put before their names in `missing`; empty for models, which clients look up by name.
    """
    found = {}
    for name, task in tasks.items():
        key = f"{what} {name}".strip()
        if key in missing:
            continue
        try:
            found[name] = tell(task)
        except Exception as error:  # noqa: BLE001 - one task must not keep clients from connecting
            missing[key] = reason_of(error)
            log.warning("%s cannot be described: %s", key, missing[key])
    return found


def reason_of(error: Exception) -> str:
    """Returns an error in words; of one that is not of this project, its type too."""
    return str(error) if isinstance(error, MedSAM2AtlasError) else f"{type(error).__name__}: {error}"


def organs_of(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the organs that any of the described models segments, each once, in the order of their numbers."""
    names: dict[str, None] = {}
    for model in models.values():
        labels = model.get("labels") or {}
        names |= dict.fromkeys(sorted(labels, key=labels.__getitem__) if isinstance(labels, Mapping) else labels)
    return list(names)
