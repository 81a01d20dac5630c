"""Lets a package import its names at first use, because some libraries take seconds to import."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package, which imports an exported name when it is first used (PEP 562).

    The package also imports the names under `TYPE_CHECKING`, for type checkers and editors.

    Args:
        package: the package's `__name__`.
        modules: maps each exported name to the module of the package that defines it.
    """

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return __getattr__
