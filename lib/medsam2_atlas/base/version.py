"""The project's version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Returns the project's version, or `0+unknown` if the package is not installed."""
    try:
        return version("medsam2-atlas")
    except PackageNotFoundError:
        return "0+unknown"
