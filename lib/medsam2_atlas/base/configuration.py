"""Reads configuration files: YAML into a pydantic model that refuses unknown keys. An overlay may replace some settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.overlay import chosen_settings, merged, overlay_of, settings_in

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)

OldKeys = Mapping[str, str | Callable[[Any], Mapping[str, Any]]]
"""Maps each renamed key of the previous release to its new key, or to a function from its value to new keys and values.

Dots separate the levels of a nested key: `appearance.most`. `*` stands for each entry of a list: `organs.*.threshold`.
"""


def read_config(model: type[M], file: Path, what: str, remedy: str = "", old_keys: OldKeys | None = None) -> M:
    """Returns the configuration in a file, with the settings that the process's overlay replaces in it (`base.overlay`).

    Args:
        model: pydantic model of the configuration.
        file: the YAML file. Settings that are chosen for the process (`overlay.choose_settings`) replace its settings.
        what: kind of the configuration, such as `organ table`; the error message names it.
        remedy: advice for the error message; empty if there is none.
        old_keys: renamed keys of the previous release. They are still read, and a warning names the new keys.

    Raises:
        InputError: the file or the overlay cannot be read, its settings are invalid, or a setting appears under its old and its
            new key.
    """
    try:
        content = _with_new_keys(yaml.safe_load(file.read_text(encoding="utf-8")) or {}, old_keys or {}, file)
        found = model.model_validate(content)
    except ValidationError as error:
        raise InputError(file, f"is not a valid {what}: {problems_of(error)}.", remedy) from error
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise InputError(file, f"is not a valid {what}: {reading_problem(error)}.", remedy) from error
    changes, chosen = overlay_of(file), chosen_settings(file)
    if changes is None:
        return model.model_validate(merged(content, chosen, file)) if chosen else found
    try:
        return model.model_validate(merged(merged(content, settings_in(changes), changes), chosen, file))
    except ValidationError as error:
        raise InputError(
            changes,
            f"does not change a {what} correctly: {problems_of(error)}.",
            "Compare it with the file of its name in configs/.",
        ) from error


def reading_problem(error: Exception) -> str:
    """Returns why a text file cannot be read, in one line without a full stop at its end.

    >>> reading_problem(FileNotFoundError(2, "No such file or directory", "a.yaml"))
    'No such file or directory'
    """
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()).rstrip(".")


def _with_new_keys(content: Any, old_keys: OldKeys, file: Path) -> Any:
    """Returns the content with current keys; logs one warning that names the new key of each old one."""
    renamed: dict[str, str] = {}
    for old, new in old_keys.items():
        for places, value in list(_taken(content, old.split("."))):
            entries = {new: value} if isinstance(new, str) else new(value)
            for name, entry in entries.items():
                if not _put(content, name.split("."), places, entry):
                    raise InputError(file, f"has one setting twice: as {name}, and under its old key {old}.", f"Remove {old}.")
            renamed[old] = " and ".join(entries)
    if renamed:
        changes = "; ".join(f"{old} is now {new}" for old, new in renamed.items())
        log.warning("%s has keys of the previous release, which the next one will not read. Rename them: %s.", file, changes)
    return content


def _taken(content: Any, path: list[str], places: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Removes a key wherever its path matches, and parents that become empty.

    Yields for each match the list indices that `*` stands for, and the value.
    """
    head, *rest = path
    if head == "*":
        for n, entry in enumerate(content if isinstance(content, list) else []):
            yield from _taken(entry, rest, (*places, n))
    elif isinstance(content, dict) and head in content:
        if not rest:
            yield places, content.pop(head)
            return
        yield from _taken(content[head], rest, places)
        if content[head] == {}:
            del content[head]


def _put(content: Any, path: list[str], places: tuple[int, ...], value: Any) -> bool:
    """Sets a key if it is not set yet; returns whether the key was set."""
    left = list(places)
    for part in path[:-1]:
        if part == "*":
            content = content[left.pop(0)]
            continue
        if content.get(part) is None:
            content[part] = {}
        content = content[part]
        if not isinstance(content, dict | list):
            raise ValueError(f"{part} has no settings: it is {content!r}")
    if path[-1] in content:
        return False
    content[path[-1]] = value
    return True


def problems_of(error: ValidationError) -> str:
    """Returns the problems of a configuration in one line, each with the name of its setting."""
    problems = ((".".join(map(str, problem["loc"])), problem["msg"]) for problem in error.errors())
    return "; ".join(f"{setting}: {message}" if setting else message for setting, message in problems)


class Settings(BaseModel):
    """Settings that tune a method. They cannot be changed after they are read.

    A stored result names only settings that differ from their defaults. It therefore stays valid when a later version adds
    settings, as long as nobody changes one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def changed(self) -> dict[str, Any]:
        """Returns the settings that differ from their defaults; see `differing`."""
        return differing(self)


def differing(config: BaseModel) -> dict[str, Any]:
    """Returns the settings of a configuration that differ from their defaults, as JSON values.

    Nested configurations are compared setting by setting. A setting without a default is always included.
    """
    found: dict[str, Any] = {}
    content = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if not field.is_required() and value == field.get_default(call_default_factory=True):
            continue
        found[name] = differing(value) if isinstance(value, BaseModel) else content[name]
    return found
