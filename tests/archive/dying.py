"""The work of child processes in the tests of kills. Only these processes import it."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

from medsam2_atlas.archive import Place, back_up, restore, verification, verify
from storage.writers import counted


def back_up_and_die_at(studies: Path, dest: Path, step: int, connection: Connection) -> None:
    """Makes a backup; the power fails before one of the steps that change names on the disk or flush."""
    with counted(step, lambda: os._exit(7)):
        connection.send(back_up(Place.existing(str(studies)), dest, keep=2).snapshot.name)


def restore_and_die_at(dest: Path, back: Path, step: int, connection: Connection) -> None:
    """Restores a snapshot; the power fails before one of the steps that change names on the disk or flush."""
    with counted(step, lambda: os._exit(7)):
        connection.send(restore(dest, Place.of(str(back))).snapshot.name)


def verify_slowly(studies: Path, connection: Connection) -> None:
    """Verifies studies slowly, and sends a message after each file."""
    original = verification.stream_sha256

    def slow(stream: object) -> str:
        found = original(stream)  # type: ignore[arg-type]
        connection.send("read")
        time.sleep(0.05)
        return found

    verification.stream_sha256 = slow  # type: ignore[assignment]
    verify(Place.existing(str(studies)))
