"""Leaves the processor to others where they need it: a server's answers come before what it computes."""

from __future__ import annotations

import os
import sys
import threading


def step_back(by: int = 5) -> None:
    """Lowers the priority of this thread, and of those that it starts, such as PyTorch's own.

    On Linux, where niceness belongs to a thread; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + by))
