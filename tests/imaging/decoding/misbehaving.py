"""A reader process with tasks that imitate the effects of hostile files."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Any

import numpy as np

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import worker
from medsam2_atlas.imaging.decoding.tasks import TASKS

Result = tuple[dict[str, Any], list[np.ndarray]]


def crash(path: str) -> Result:
    ctypes.string_at(0)
    return {}, []


def hang(path: str) -> Result:
    time.sleep(600)
    return {}, []


def spin(path: str) -> Result:
    while True:
        pass


def killed(path: str) -> Result:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}, []


def fill(path: str) -> Result:
    return {}, [np.ones(10**9)]


def nonsense(path: str) -> Result:
    """Sends an invalid reply, as a hostile file that controls its reader could."""
    link = next(int(arg) for arg in sys.argv[1:2])
    os.write(link, b'{"resident_mb": 1, "arrays": [{"dtype": "O", "shape": [-1]}]}')
    time.sleep(600)
    return {}, []


def complain(path: str) -> Result:
    raise InputError(path, "is wrong: " + "x" * 200_000)


def divide(path: str) -> Result:
    return {"x": 1 // 0}, []


if __name__ == "__main__":
    names = ("crash", "hang", "spin", "killed", "fill", "nonsense", "divide", "complain")
    TASKS.update({f"test_{name}": f"imaging.decoding.misbehaving:{name}" for name in names})
    worker.main()
