"""Collects the descriptions of a server's tasks; a task that fails does not hide the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from medsam2_atlas.base.errors import problem_of

log = logging.getLogger(__name__)


def described(
    tasks: Mapping[str, Any], describe: Callable[[Any], Any], missing: dict[str, str], what: str = ""
) -> dict[str, Any]:
    """Returns the description of each task, by name.

    Args:
        tasks: the tasks by name; a task with an entry in `missing` is left out.
        describe: returns the description of a task.
        missing: reasons why tasks cannot be used, by name; a task whose description fails is added.
        what: kind of the tasks, which precedes their names in `missing`; empty for models, which clients look up by name.
    """
    found = {}
    for name, task in tasks.items():
        key = f"{what} {name}".strip()
        if key in missing:
            continue
        try:
            found[name] = describe(task)
        except Exception as error:  # noqa: BLE001 - one broken task must not prevent clients from connecting
            missing[key] = problem_of(error)
            log.warning("%s cannot be described: %s", key, missing[key])
    return found


def organs_of(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the names of all organs that the described models segment, without duplicates, ordered by number in each model.

    Example:
        >>> organs_of({"D": {"labels": {"liver": 6, "spleen": 1}}, "own": {"labels": ["femur", "liver"]}})
        ['spleen', 'liver', 'femur']
    """
    names: dict[str, None] = {}
    for model in models.values():
        labels = model.get("labels") or {}
        names |= dict.fromkeys(sorted(labels, key=labels.__getitem__) if isinstance(labels, Mapping) else labels)
    return list(names)
