"""Describes a server's tasks; for a task that fails, it gives the reason and describes the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from medsam2_atlas.base.errors import problem_of

log = logging.getLogger(__name__)


def described(tasks: Mapping[str, Any], tell: Callable[[Any], Any], missing: dict[str, str], what: str = "") -> dict[str, Any]:
    """Returns the description of each task, by name.

    Args:
        tasks: by name; those that `missing` names are left out.
        tell: returns the description of a task.
        missing: filled with the reason why a task fails, under its name.
        what: kind of the tasks, which precedes their names in `missing`; empty for models, which clients look up by name.
    """
    found = {}
    for name, task in tasks.items():
        key = f"{what} {name}".strip()
        if key in missing:
            continue
        try:
            found[name] = tell(task)
        except Exception as error:  # noqa: BLE001 - one task must not keep clients from connecting
            missing[key] = problem_of(error)
            log.warning("%s cannot be described: %s", key, missing[key])
    return found


def organs_of(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the organs that any of the described models segments, each once, in the order of their numbers."""
    names: dict[str, None] = {}
    for model in models.values():
        labels = model.get("labels") or {}
        names |= dict.fromkeys(sorted(labels, key=labels.__getitem__) if isinstance(labels, Mapping) else labels)
    return list(names)
