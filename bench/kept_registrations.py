"""Registrations of `bench/prompts.py`: each is computed once for all methods and rules that use it, and kept with `--work`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.base.files import write_json
from medsam2_atlas.registration import Transform


@dataclass(frozen=True)
class Registered:
    """A target's registration to an atlas.

    Attributes:
        transform: the transform to the common space.
        inverse: its inverse.
        cpu_s: processor seconds of both.
        wall_s: wall seconds of both.
    """

    transform: Transform
    inverse: Transform
    cpu_s: float
    wall_s: float


def registered(make: Callable[[], Transform], folder: Path | None) -> Registered:
    """Registers a target, or reads its registration from a folder.

    Args:
        make: registers the target.
        folder: the folder of this registration; None does not keep it.
    """
    if folder is not None and (folder / "seconds.json").is_file():
        return _read(folder)
    began, used = time.perf_counter(), time.process_time()
    transform = make()
    inverse = transform.inverse()
    found = Registered(transform, inverse, time.process_time() - used, time.perf_counter() - began)
    if folder is None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    transform.save(folder / "transform.npz")
    inverse.save(folder / "inverse.npz")
    write_json({"cpu_s": found.cpu_s, "wall_s": found.wall_s}, folder / "seconds.json")
    return _read(folder)  # stored displacements have half precision, in the app too


def _read(folder: Path) -> Registered:
    seconds = json.loads((folder / "seconds.json").read_text())
    return Registered(Transform.load(folder / "transform.npz"), Transform.load(folder / "inverse.npz"), **seconds)
