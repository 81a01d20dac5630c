"""Modes of files with patient data: only their owner may access them, or also a group that the operator chose.

A process that writes such files sets its umask once, at its start; child processes inherit it. Only the umask decides: no file
is created with an open mode and restricted later.

The mode of the work folder of a set of studies stores the choice. If its group may write to it and new files inherit its group
(setgid), the files of these studies are for the group; otherwise they are for their owner. So commands use the same modes as
the server (`follow`). The library itself never changes the umask of its process.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_OWNER_UMASK, _GROUP_UMASK = 0o077, 0o007
_GROUP_FOLDER = stat.S_ISGID | stat.S_IRWXG


_begun_with: list[int] = []
"""The umask with which the process was started; empty until `set_umask` changes it."""


def set_umask(for_group: bool) -> None:
    """Sets the umask of this process and its children: files 0600 and folders 0700, or 0660 and 0770 for a group."""
    before = os.umask(_GROUP_UMASK if for_group else _OWNER_UMASK)
    if not _begun_with:
        _begun_with.append(before)


@contextmanager
def umask_of_user() -> Iterator[None]:
    """Restores the umask with which the command was started for the duration of the block.

    Results at a path that the user names get the modes that the user's own umask gives.
    """
    now = os.umask(_begun_with[0]) if _begun_with else None
    try:
        yield
    finally:
        if now is not None:
            os.umask(now)


def is_for_group(folder: Path) -> bool:
    """Returns whether the files of a folder are for its group; False if the folder does not exist."""
    try:
        return folder.stat().st_mode & _GROUP_FOLDER == _GROUP_FOLDER
    except OSError:
        return False


def follow(folder: Path) -> None:
    """Sets the umask of a command that writes into a folder: for the group if the folder's files are, else for the owner."""
    set_umask(is_for_group(folder))
    owner = folder.stat().st_uid if folder.is_dir() else 0
    if os.geteuid() == 0 and owner:
        log.warning("%s belongs to user %d, who cannot read files that root writes. Run this as that user.", folder, owner)


def file_mode(folder: Path) -> int:
    """Returns the mode of a new file in a folder: 0o660 if the folder's files are for its group, else 0o600."""
    return 0o660 if is_for_group(folder) else 0o600


def folder_mode(folder: Path) -> int:
    """Returns the mode of a new folder in a folder: 0o2770 if the folder's files are for its group, else 0o700."""
    return 0o770 | stat.S_ISGID if is_for_group(folder) else 0o700


def hand_over(made: Path | int, folder: Path) -> None:
    """Gives a file or folder that root has just created in another user's folder to that user.

    Otherwise a server that runs as that user could not write to it after root has run a command.

    Args:
        made: the new file or folder: an open file, or a path, which is not followed if it is a link.
        folder: the folder whose owner and group the new file gets.
    """
    if os.geteuid() != 0:
        return
    state = folder.stat()
    if isinstance(made, int):
        os.fchown(made, state.st_uid, state.st_gid)
    else:
        os.chown(made, state.st_uid, state.st_gid, follow_symlinks=False)


def apply_modes(folder: Path, for_group: bool, group: int | None = None, *, recursive: bool = True) -> int:
    """Gives a folder and its contents the modes that new files get; for folders that only this program writes to.

    Only files and folders of this process' user are changed. Links are not followed. Files with several names (hard links) are
    not changed, as another name may belong to another person. The owner keeps the same rights. Files that cannot be changed
    keep their modes.

    Args:
        folder: the folder; nothing happens if it does not exist or is a link.
        for_group: whether the group gets the rights of the owner; all other users get none.
        group: id of the group; None to keep each file's group.
        recursive: whether the folder's contents are changed, too.

    Returns:
        How many files and folders were changed.
    """
    changed = _apply_mode(folder, for_group, group)
    if not recursive or folder.is_symlink():
        return changed
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError as error:
        log.debug("modes in %s are not changed: %s", folder, error)
        return changed
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                changed += apply_modes(Path(entry.path), for_group, group)
            elif entry.is_file(follow_symlinks=False) and _differs(entry.stat(follow_symlinks=False), for_group, group):
                changed += _apply_mode(Path(entry.path), for_group, group)
        except OSError as error:  # the file no longer exists
            log.debug("%s keeps its mode: %s", entry.path, error)
    return changed


def _apply_mode(path: Path, for_group: bool, group: int | None) -> int:
    """Returns 1 if the mode or group of a file or folder was changed, else 0."""
    try:
        # Opens the file without following links, so that it cannot be replaced between check and change.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            state = os.fstat(handle)
            if not _differs(state, for_group, group):
                return 0
            if for_group and group is not None and state.st_gid != group:
                os.fchown(handle, -1, group)
            os.fchmod(handle, _mode(state, for_group))
        finally:
            os.close(handle)
    except OSError as error:
        log.debug("%s keeps its mode: %s", path, error)
        return 0
    return 1


def _differs(state: os.stat_result, for_group: bool, group: int | None) -> bool:
    """Returns whether a file or folder may be changed, and has the wrong mode or group."""
    if state.st_uid != os.getuid() or (stat.S_ISREG(state.st_mode) and state.st_nlink > 1):
        return False
    other_group = for_group and group is not None and state.st_gid != group
    return other_group or stat.S_IMODE(state.st_mode) != _mode(state, for_group)


def _mode(state: os.stat_result, for_group: bool) -> int:
    """Returns the mode that a file or folder should have."""
    owner = state.st_mode & stat.S_IRWXU
    if not for_group:
        return owner
    return owner | owner >> 3 | (stat.S_ISGID if stat.S_ISDIR(state.st_mode) else 0)
