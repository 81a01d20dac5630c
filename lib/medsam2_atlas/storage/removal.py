"""Moves an image and everything that belongs to it to `removed/`, completely or not at all.

A plan is written first, in one step. From then on the image counts as removed: if a crash interrupts the removal, opening the
folder completes it. If a file cannot be moved, the files that were already moved are moved back.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.files import remove_folder, text_of
from medsam2_atlas.base.json_text import stored_json
from medsam2_atlas.storage.folder import WorkFolder
from medsam2_atlas.storage.index import Index
from medsam2_atlas.storage.rows import stamp_of
from medsam2_atlas.storage.safely import make_folder, temporary, write_safely

log = logging.getLogger(__name__)

_PLAN = "removal.json"


def set_aside(path: Path, work: WorkFolder, image: Path, belongings: Mapping[Path, str]) -> Path:
    """Moves an image and everything that belongs to it into a new folder below `removed/`.

    Args:
        path: the studies folder.
        work: its work folder.
        image: the image to move.
        belongings: files and folders to move with it, with their relative paths in the new folder.

    Returns:
        The new folder.

    Raises:
        OSError: a file cannot be moved; nothing has changed.
    """
    aside = work.folder(f"removed/{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}")
    moves = {image: image.name, **belongings}
    for place in moves.values():
        make_folder((aside / place).parent)
    plan = {"stamp": stamp_of(image), "moves": {str(file.relative_to(path)): place for file, place in moves.items()}}
    with temporary(aside, ".json") as part:
        write_safely(part, json.dumps(plan, indent=1, ensure_ascii=False))
        os.replace(part, aside / _PLAN)
    moved: list[tuple[Path, Path]] = []
    try:
        for file, place in moves.items():
            if file.exists() or file.is_symlink():
                _move(file, aside / place, aside)
                moved.append((file, aside / place))
    except OSError:
        for file, place_now in reversed(moved):
            _move(place_now, file, path)
        (aside / _PLAN).unlink()
        raise
    with suppress(OSError):  # a plan that is completed but not removed is harmless
        (aside / _PLAN).unlink()
    return aside


def finish_removals(path: Path, work: WorkFolder, index: Index) -> None:
    """Completes removals that a crash interrupted. Logs those that cannot be completed.

    Args:
        path: the studies folder.
        work: its work folder.
        index: the index of the studies.
    """
    try:
        plans = [file for file in (work.path / "removed").glob(f"*/{_PLAN}") if file.is_file()]
    except OSError as error:
        log.error("removed images cannot be listed (%s)", error.strerror)
        return
    for file in plans:
        try:
            with index.writing():
                _finish(path, work, file)
        except (OSError, StorageError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("%s: the removal cannot be completed: %s", file, error)


def _finish(path: Path, work: WorkFolder, file: Path) -> None:
    aside = work.folder(f"removed/{file.parent.name}")
    plan = stored_json(text_of(file))
    moves = {path / old: aside / new for old, new in plan["moves"].items()}
    image, image_place = next(iter(moves.items()))
    if not image_place.exists() and stamp_of(image) != plan["stamp"]:
        log.warning("%s: the removal is not completed, since %s is now another image", file, image)
    else:
        for old, new in moves.items():
            if not (_below(old, path) and _below(new, aside)):
                raise StorageError(file, f"names {old}, which is outside of the studies folder.", "Remove the plan.")
            if old == image and image_place.exists():
                continue  # a new image of that name may have been added since
            if old.exists() or old.is_symlink():
                _move(old, new, aside)
    file.unlink()


def _below(file: Path, folder: Path) -> bool:
    place = file.parent.resolve()
    return folder.resolve() in (place, *place.parents)


def _move(old: Path, new: Path, below: Path) -> None:
    """Moves a file, folder or link, also to another disk."""
    if old.is_symlink() and not old.readlink().is_absolute():  # a relative link would break after the move
        new.symlink_to(os.path.realpath(old))
        old.unlink()
        return
    if new.is_dir() and not new.is_symlink():
        remove_folder(new, below)
    try:
        os.replace(old, new)
    except OSError:
        if old.stat().st_dev == new.parent.stat().st_dev:
            raise
        shutil.move(old, new)
