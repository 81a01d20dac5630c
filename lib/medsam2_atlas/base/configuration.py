"""One way to read a configuration file: YAML into a pydantic model that refuses what it does not know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medsam2_atlas.base.errors import InputError

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)

Former = Mapping[str, str | Callable[[Any], Mapping[str, Any]]]
"""Keys of the last release, and their names today; or a function that returns today's keys and values for an old value.

A key within others is written with dots: `appearance.most`. `*` stands for each entry of a list: `organs.*.threshold`.
"""


def read_config(model: type[M], file: Path, what: str, remedy: str = "", former: Former | None = None) -> M:
    """Returns the configuration in a file.

    Args:
        model: of the configuration.
        file: YAML.
        what: kind of the configuration, for the error.
        remedy: what to do, for the error.
        former: keys of the last release. They are read, and a warning names the new ones.

    Raises:
        InputError: not readable, not valid parameters, or a setting by its old and its new key.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        return model.model_validate(_with_new_keys(content, former or {}, file))
    except ValidationError as error:
        raise InputError(file, f"is not a valid {what}: {problems_of(error)}.", remedy) from error
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise InputError(file, f"is not a valid {what}: {error}", remedy) from error


def _with_new_keys(content: Any, former: Former, file: Path) -> Any:
    """Returns the content with today's keys; logs one warning that names the new key of each old one."""
    renamed: dict[str, str] = {}
    for old, new in former.items():
        for places, value in list(_taken(content, old.split("."))):
            entries = {new: value} if isinstance(new, str) else new(value)
            for name, entry in entries.items():
                if not _put(content, name.split("."), places, entry):
                    raise InputError(file, f"has one setting twice: as {old}, its old key, and as {name}.", f"Remove {old}.")
            renamed[old] = " and ".join(entries)
    if renamed:
        told = "; ".join(f"{old} is now {new}" for old, new in renamed.items())
        log.warning("%s has keys of the last release, which the next one will not read. Rename them: %s.", file, told)
    return content


def _taken(content: Any, path: list[str], places: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Removes a key wherever its path leads, and the parts that it leaves empty; yields the indices that `*` stood for, and
    its value."""
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
    """Sets a key; returns whether it was free."""
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
    told = ((".".join(map(str, problem["loc"])), problem["msg"]) for problem in error.errors())
    return "; ".join(f"{where}: {message}" if where else message for where, message in told)


class Settings(BaseModel):
    """Settings that tune a method; they cannot be changed once they are read.

    A result that is stored names those settings that differ from their defaults, and only those: so it is found again as
    long as nobody has changed one, whatever settings later versions add.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def changed(self) -> dict[str, Any]:
        """Returns the settings that differ from their defaults; see `differing`."""
        return differing(self)


def differing(config: BaseModel) -> dict[str, Any]:
    """Returns the settings of a configuration that differ from their defaults, as JSON has them; parts that are
    configurations themselves are looked into. A setting without a default always counts."""
    found: dict[str, Any] = {}
    content = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if not field.is_required() and value == field.get_default(call_default_factory=True):
            continue
        found[name] = differing(value) if isinstance(value, BaseModel) else content[name]
    return found
