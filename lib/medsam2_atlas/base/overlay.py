"""An overlay of settings: a folder of YAML files whose settings replace those in `configs/`, for this process.

A file of an overlay has the name of a file in `configs/` and contains only the settings that it replaces. All other settings
keep the user's values. A process uses one overlay at most; processes that it starts do not inherit it.

Single settings may also be chosen for the process, as by an option of a command; they replace those of the overlay, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource

T = TypeVar("T")

_readers: list[Callable[[], None]] = []
"""Functions that make the readers of settings forget what they have read."""
_used: list[Path] = []
"""The folder of the overlay; empty without one."""
_chosen: dict[str, dict[str, Any]] = {}
"""The settings that are chosen for the process, by the name of their file in `configs/`."""
_owner: list[object] = []
"""For what overlay and choices were begun; empty if that was not said."""


def read_once(read: Callable[..., T]) -> functools._lru_cache_wrapper[T]:
    """Caches a function that reads settings from `configs/`, until the overlay changes.

    Every such function needs this decorator: with `functools.cache`, it would not notice an overlay.
    """
    reader = functools.cache(read)
    _readers.append(reader.cache_clear)
    return reader


def current_overlay() -> Path | None:
    """Returns the folder of the overlay that this process uses; None without one."""
    return _used[0] if _used else None


def use_overlay(folder: Path | None) -> None:
    """Makes all settings that are read from now on follow an overlay.

    Objects that were made earlier keep their settings, so a command calls this before it makes any.

    Args:
        folder: the folder of the overlay; None for the user's settings alone.

    Raises:
        InputError: the folder contains no settings, or a file that has no namesake in `configs/`.
    """
    if folder is not None:
        files = sorted(folder.glob("*.yaml"))
        if not files:
            raise InputError(folder, "contains no settings.", "Name a folder of YAML files.")
        for file in files:
            if not (resource("configs") / file.name).is_file():
                raise InputError(file, "changes no settings.", "Give it the name of a file in configs/.")
    _used[:] = [] if folder is None else [folder]
    for forget in _readers:
        forget()


def choose_settings(name: str, settings: dict[str, Any]) -> None:
    """Makes settings that are read from now on have chosen values, whatever the user's file and the overlay say.

    Objects that were made earlier keep their settings, so a command calls this before it makes any.

    Args:
        name: the name of the file in `configs/`, such as `registration.yaml`.
        settings: the chosen settings; empty to choose none any more.
    """
    _chosen[name] = settings
    for forget in _readers:
        forget()


def begin_settings(owner: object) -> None:
    """Ends overlay and choices of a process that works for several owners in turn, so that its next ones are those of an owner.

    Args:
        owner: for what the process works from now on, such as an experiment.
    """
    _owner.clear()
    use_overlay(None)
    for name in [*_chosen]:
        choose_settings(name, {})
    _owner.append(owner)


def settings_are_of(owner: object) -> bool:
    """Returns whether overlay and choices are those of an owner, so that nobody else has begun other ones since."""
    return _owner == [owner]


def chosen_settings(file: Path) -> dict[str, Any]:
    """Returns the settings that are chosen for the process in a file; empty if the file does not lie in `configs/`."""
    return _chosen.get(file.name, {}) if file.parent == resource("configs") else {}


@contextmanager
def overlay(folder: Path | None) -> Iterator[None]:
    """Uses an overlay for a block, and the previous one again after it.

    Args:
        folder: see `use_overlay`.
    """
    before = current_overlay()
    use_overlay(folder)
    try:
        yield
    finally:
        use_overlay(before)


def overlay_of(file: Path) -> Path | None:
    """Returns the overlay's file for a file of settings; None if there is none, or if the file does not lie in `configs/`."""
    folder = current_overlay()
    if folder is None or file.parent != resource("configs"):
        return None
    found = folder / file.name
    return found if found.is_file() else None


def overlaid_settings(name: str) -> dict[str, Any]:
    """Returns the settings that the overlay or a choice replaces in a file of `configs/`; empty if none.

    Args:
        name: the name of the file, such as `fusion.yaml`.

    Raises:
        InputError: the overlay's file cannot be read.
    """
    file = resource("configs") / name
    found = overlay_of(file)
    settings: dict[str, Any] = merged({} if found is None else settings_in(found), chosen_settings(file), file)
    return settings


def settings_in(file: Path) -> dict[str, Any]:
    """Returns the settings in an overlay's file.

    Raises:
        InputError: the file cannot be read, or does not contain settings with names.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise InputError(file, f"cannot be read: {error}", "Write settings as in configs/.") from error
    if not isinstance(content, dict):
        raise InputError(file, "contains no settings.", "Write settings as in configs/, or remove the file.")
    return content


def merged(settings: Any, changes: Any, file: Path) -> Any:
    """Returns settings with changes; neither is modified.

    Groups of settings are merged setting by setting, and lists of groups by their entries' `name`. Other values are replaced.

    Args:
        settings: the content of a file of settings.
        changes: the content of the overlay's file, or a part of it.
        file: the overlay's file, for the error message.

    Raises:
        InputError: a list has no entry of a name that changes.

    Examples:
        >>> merged({"vote": {"method": "local", "radius": 2}}, {"vote": {"method": "mean"}}, Path("fusion.yaml"))
        {'vote': {'method': 'mean', 'radius': 2}}
    """
    if isinstance(settings, dict) and isinstance(changes, dict):
        return settings | {key: merged(settings.get(key), value, file) for key, value in changes.items()}
    if not (_named(settings) and _named(changes)):
        return changes
    by_name = {entry["name"]: entry for entry in changes}
    if unknown := sorted(set(by_name) - {entry["name"] for entry in settings}):
        raise InputError(file, f"changes {', '.join(unknown)}, which configs/{file.name} lacks.", "Add them there.")
    return [merged(entry, by_name.get(entry["name"], {}), file) for entry in settings]


def _named(value: Any) -> bool:
    """Returns whether a value is a list of groups of settings with names."""
    entries = value if isinstance(value, list) else []
    return bool(entries) and all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries)
