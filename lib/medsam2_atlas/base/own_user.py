"""Gives libraries a user name and writable folders if the process's user has none, as in a container."""

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
"""Environment variables that name the folders of libraries, which are in the user's home by default; and the folders' names."""


def ensure_name() -> None:
    """Sets `$USER` if the system has no name for the user. MONAI cannot be imported without one."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # no entry in /etc/passwd; Python 3.13 and newer raise OSError
        os.environ["USER"] = f"user-{os.getuid()}"


def ensure_home() -> None:
    """Moves the folders that libraries use in the user's home to the state folder, if the home cannot be written."""
    try:
        home = Path.home()
    except RuntimeError:  # no $HOME and no entry in /etc/passwd
        home = Path("/")
    if home.is_dir() and os.access(home, os.W_OK | os.X_OK) and home != Path("/"):
        return
    for variable, name in _CACHES.items():
        os.environ.setdefault(variable, str(state_folder() / "cache" / name))
    if home == Path("/") or not home.is_dir():  # a read-only home stays: it may contain settings, such as ~/.netrc
        home = state_folder() / "home"
        os.environ["HOME"] = str(home)
        with suppress(OSError):  # a library that cannot write reports that itself
            home.mkdir(mode=0o700, parents=True, exist_ok=True)


def ensure_temp() -> None:
    """Creates the folder that `$TMPDIR` names; without it, libraries would silently use /tmp, which may be small.

    Raises:
        StorageError: the folder cannot be created.
    """
    folder = os.environ.get("TMPDIR")
    try:
        if folder:
            Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(str(folder), f"cannot hold temporary files: {error}.", "Set $TMPDIR to another folder.") from error
