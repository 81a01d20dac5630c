"""The number of CPUs that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def processors() -> int:
    """Returns the number of CPUs that this process may use: its affinity, limited by the container's quota."""
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text(encoding="utf-8").split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no container, or `max`: no quota
        return count
