"""Finds the project's own files, and the folders for files that the user adds or that the server writes.

The project's own files are configurations, demo weights, the MONAI Label app and sample data.
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT = _PACKAGE.parents[1]

BUNDLED = _PACKAGE / "resources" / "bundled"
"""The folder of MONAI Label and sam2 in an installed wheel. In a checkout, both are packages of its environment."""


def resource(name: str) -> Path:
    """Returns the path of a file or folder that comes with the project, such as `configs/labels.yaml`.

    An installed wheel contains it inside the package, a checkout in its top folder.

    Raises:
        FileNotFoundError: neither of them contains it.
    """
    for root in (_PACKAGE / "resources", _CHECKOUT):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"{name} did not come with this installation; reinstall medsam2-atlas.")


ADDRESS_VARIABLE, QUIET_VARIABLE = "MEDSAM2_ATLAS_ADDRESS", "MEDSAM2_ATLAS_QUIET"
"""Variables that `medsam2-atlas serve` sets for the server: its addresses, and whether its log goes only to the file."""


def python_path() -> str:
    """Returns the `PYTHONPATH` of MONAI Label's processes: the app, the packages in the wheel, and the current value."""
    folders = [str(resource("apps/medsam2_atlas")), str(BUNDLED) if BUNDLED.is_dir() else "", os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, folders))


def model_folder() -> Path:
    """Returns the folder for downloaded weights: `$MEDSAM2_ATLAS_MODELS`, or a folder in the user's data directory."""
    return _named("MEDSAM2_ATLAS_MODELS") or _user_folder("XDG_DATA_HOME", ".local/share") / "medsam2_atlas" / "models"


def viewer_folder() -> Path:
    """Returns the folder for the fetched viewer: `$MEDSAM2_ATLAS_VIEWER`, or a folder in the user's data directory."""
    return _named("MEDSAM2_ATLAS_VIEWER") or _user_folder("XDG_DATA_HOME", ".local/share") / "medsam2_atlas" / "viewer"


def state_folder() -> Path:
    """Returns the folder for logs of servers, and for tracebacks of unexpected errors of commands.

    It is `$MEDSAM2_ATLAS_STATE`, or a folder in the user's state directory.
    """
    return _named("MEDSAM2_ATLAS_STATE") or _user_folder("XDG_STATE_HOME", ".local/state") / "medsam2_atlas"


def _named(variable: str) -> Path | None:
    return Path(os.environ[variable]) if variable in os.environ else None


def _user_folder(variable: str, name: str) -> Path:
    """Returns the folder that a variable of the XDG base directories names, or the default folder in the user's home."""
    named = _named(variable)
    if named is not None:
        return named
    try:
        return Path.home() / name
    except RuntimeError:  # no $HOME and no entry in /etc/passwd, as in a container with an arbitrary user id
        return Path("/") / name  # container engines set $HOME to / then; errors of refused writes name this path
