"""Gives libraries a user name and writable folders where the process's user has none, as in a container."""

from __future__ import annotations

import getpass
import os
from contextlib import suppress
from pathlib import Path

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.resource import state_folder

_CACHES = {
    "XDG_CACHE_HOME": "",  # fontconfig, torch
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "CUDA_CACHE_PATH": "cuda",
    "MONAI_LABEL_SESSION_PATH": "sessions",
}
"""Variables that name folders which libraries would else make in the user's home, and the folders' names."""


def ensure_name() -> None:
    """Sets `$USER` where nothing tells the user's name. MONAI cannot be imported without one."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # no entry in /etc/passwd; OSError from Python 3.13 on
        os.environ["USER"] = f"user-{os.getuid()}"


def ensure_home() -> None:
    """Names folders below the state folder for what libraries keep in the user's home, if that cannot be written."""
    try:
        home = Path.home()
    except RuntimeError:  # no $HOME and no entry in /etc/passwd
        home = Path("/")
    if home.is_dir() and os.access(home, os.W_OK | os.X_OK) and home != Path("/"):
        return
    for variable, name in _CACHES.items():
        os.environ.setdefault(variable, str(state_folder() / "cache" / name))
    if home == Path("/") or not home.is_dir():  # else it may hold settings that are read, such as ~/.netrc
        home = state_folder() / "home"
        os.environ["HOME"] = str(home)
        with suppress(OSError):  # libraries say themselves what they cannot write
            home.mkdir(mode=0o700, parents=True, exist_ok=True)


def ensure_temp() -> None:
    """Makes the folder that `$TMPDIR` names; without it, libraries would take /tmp unasked, which may be small.

    Raises:
        StorageError: it cannot be made.
    """
    folder = os.environ.get("TMPDIR")
    try:
        if folder:
            Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(str(folder), f"cannot hold temporary files: {error}.", "Name another folder by $TMPDIR.") from error
