"""Identifies processes by marks, which distinguish a process from a later one with the same process id."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessMark:
    """Identifies a process.

    Attributes:
        namespace: inode of the process namespace; containers that share a disk count their processes separately.
        number: the process id.
        ticks: when the process started, in clock ticks since the machine booted.
    """

    namespace: int
    number: int
    ticks: int

    @classmethod
    def own(cls) -> ProcessMark:
        """Returns the mark of this process."""
        number = os.getpid()
        return cls(_namespace(), number, _start_ticks(number) or 0)

    @classmethod
    def parse(cls, text: str) -> ProcessMark | None:
        """Returns the mark that a text (`str` of a mark) represents; None if the text is not a mark."""
        try:
            namespace, number, ticks = (int(part, 16) for part in text.split("_"))
        except ValueError:
            return None
        return cls(namespace, number, ticks)

    def __str__(self) -> str:
        return f"{self.namespace:x}_{self.number:x}_{self.ticks:x}"

    @property
    def here(self) -> bool:
        """Whether the process belongs to this process namespace, so that `alive` is defined."""
        return self.namespace == _namespace()

    @property
    def alive(self) -> bool:
        """Whether the process runs; a zombie does not. Defined only if `here`."""
        return self.here and _start_ticks(self.number) == self.ticks


def _namespace() -> int:
    try:
        return (_PROC / "self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _start_ticks(number: int) -> int | None:
    """Returns the start of a process in clock ticks since the machine booted; None if it does not run."""
    try:
        # The command's name, in parentheses, may contain spaces and parentheses.
        fields = (_PROC / str(number) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
