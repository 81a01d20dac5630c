"""The work of child processes in the tests of kills. Only these processes import it."""

from __future__ import annotations

import errno
import importlib
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.imaging.decoding.tasks import TASKS
from medsam2_atlas.storage import StudyStore, checks


def save_forever(studies: Path, labels: list[Path], reader: bool, connection: Connection) -> None:
    """Saves one label after another, and sends each acknowledged version. reader: whether a reader process decodes them."""
    if not reader:
        decode_here()
    store = StudyStore(studies)
    number = 0
    while True:
        file = labels[number % len(labels)]
        saved = store.save_label("a", "final", file, author=f"{os.getpid()}-{number}")
        connection.send((saved.label.version.number, saved.label.version.sha256))
        number += 1


def save_some(studies: Path, study: str, tag: str, labels: list[Path], times: int) -> None:
    """Saves a number of labels."""
    store = StudyStore(studies)
    for number in range(times):
        store.save_label(study, tag, labels[number % len(labels)], author=f"{os.getpid()}-{number}")


def save_and_die_at(studies: Path, file: Path, step: int, connection: Connection) -> None:
    """Saves one label; the power fails just before one of the steps that change names on the disk or flush."""
    decode_here()
    store = StudyStore(studies)
    with counted(step, lambda: os._exit(7)):
        store.save_label("a", "final", file, author="second")
    connection.send("saved")


def save_with_error_at(studies: Path, file: Path, step: int, connection: Connection) -> None:
    """Saves one label; the disk is full at one of the steps."""
    decode_here()

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = StudyStore(studies)
    try:
        with counted(step, full):
            store.save_label("a", "final", file, author="second")
    except StorageError as error:
        connection.send(str(error))
    else:
        connection.send("saved")


def save_with_little_room(studies: Path, file: Path, room: int, connection: Connection) -> None:
    """Saves one label while the system refuses files of more than `room` bytes."""
    store = StudyStore(studies)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try:
        store.save_label("a", "final", file, author="second")
    except StorageError as error:
        connection.send(str(error))
    else:
        connection.send("saved")


def decode_here() -> None:
    """Makes this process check labels itself, because starting a reader process takes longer than saving a label."""

    def decoded(task: str, subject: Path, **arguments: Any) -> Any:
        module, _, function = TASKS[task].partition(":")
        return getattr(importlib.import_module(module), function)(**arguments)

    checks.run_task = decoded  # type: ignore[assignment]


@contextmanager
def counted(step: int, happens: Any) -> Iterator[None]:
    """Calls a function before the n-th rename, removal or flush."""
    count = 0
    originals = {name: getattr(os, name) for name in ("replace", "fsync", "unlink")}

    def wrapped(name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                happens()
            return originals[name](*args, **options)

        return call

    for name in originals:
        setattr(os, name, wrapped(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
