"""The CT that was read last, so that the next mark on it need not wait for its file to be decoded."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import file_states
from medsam2_atlas.imaging.hounsfield import HuRule, read_ct
from medsam2_atlas.imaging.volume import Volume


class LastImage:
    """Reads CTs and keeps the last one, until its file changes. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[Any, Volume] | None = None

    def read(self, path: Path, rule: HuRule) -> Volume:
        """Returns a CT in HU, `[z, y, x]`, as `read_ct` does.

        Args:
            path: file, or folder of a series.
            rule: how values become HU.

        Raises:
            InputError: the CT cannot be read, or its values are not HU.
        """
        states = _states(path)
        key = (path, rule, states)
        with self._lock:
            if states and self._kept is not None and self._kept[0] == key:
                return self._kept[1]
            self._kept = None  # frees its memory before the next CT needs it
        found = read_ct(path, rule)
        if states and _states(path) == states:  # otherwise it is unknown which version was read
            with self._lock:
                self._kept = (key, found)
        return found

    def close(self) -> None:
        """Drops the CT."""
        with self._lock:
            self._kept = None

    @property
    def bytes(self) -> int:
        """The memory of the CT's voxels; 0 without a CT."""
        with self._lock:
            return 0 if self._kept is None else int(self._kept[1].array.nbytes)


def _states(path: Path) -> list[tuple[str, int, int]]:
    """Returns the states of all files that are read for a path; empty if they cannot be listed: reading names the reason."""
    try:
        return file_states(path)
    except (OSError, InputError):
        return []
