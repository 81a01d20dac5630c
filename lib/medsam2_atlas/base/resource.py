"""Finds the files that come with the project (configurations, demo weights, the MONAI Label app, sample data), and the
folders for those that a user adds or that the server writes."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT = _PACKAGE.parents[1]

BUNDLED = _PACKAGE / "resources" / "bundled"
"""MONAI Label and sam2 in an installed wheel. A checkout's environment has them among its packages."""


def resource(name: str) -> Path:
    """The path of a file or folder such as `configs/labels.yaml`.

    An installed wheel carries them inside the package; a checkout has them at its top.

    Raises:
        FileNotFoundError: neither place has it.
    """
    for root in (_PACKAGE / "resources", _CHECKOUT):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"{name} did not come with this installation; reinstall medsam2-atlas.")


def python_path() -> str:
    """`PYTHONPATH` for MONAI Label's processes: the app, what a wheel bundles, and what the variable holds now."""
    folders = [str(resource("apps/medsam2_atlas")), str(BUNDLED) if BUNDLED.is_dir() else "", os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, folders))


def model_folder() -> Path:
    """Where downloaded weights are kept: `$MEDSAM2_ATLAS_MODELS`, or a folder in the user's data directory."""
    return _named("MEDSAM2_ATLAS_MODELS") or _user_folder("XDG_DATA_HOME", ".local/share") / "medsam2_atlas" / "models"


def state_folder() -> Path:
    """Where servers keep logs, and commands the tracebacks of unexpected errors: `$MEDSAM2_ATLAS_STATE`, or a folder in the
    user's state directory."""
    return _named("MEDSAM2_ATLAS_STATE") or _user_folder("XDG_STATE_HOME", ".local/state") / "medsam2_atlas"


def _named(variable: str) -> Path | None:
    return Path(os.environ[variable]) if variable in os.environ else None


def _user_folder(variable: str, name: str) -> Path:
    """Returns the folder that a variable of the XDG base directories names, or its default below the user's home."""
    named = _named(variable)
    if named is not None:
        return named
    try:
        return Path.home() / name
    except RuntimeError:  # no $HOME and no entry in /etc/passwd, as in a container that runs as any number
        return Path("/") / name  # as container engines set $HOME then; it can be read, and a refused write names it
