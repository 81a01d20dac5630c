"""The project's version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The project's version."""
    try:
        return version("medsam2-atlas")
    except PackageNotFoundError:
        return "0+unknown"
