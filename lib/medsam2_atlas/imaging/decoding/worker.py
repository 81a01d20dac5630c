"""The program of a reader process: `python -m medsam2_atlas.imaging.decoding.worker FD LIMITS`.

It decodes one file after another for the process that started it, and ends when that process ends or closes the socket
`FD`. Each request is one packet of JSON, `{"task", "arguments", "seconds"}`. Each reply is one packet of JSON with file
descriptors of anonymous memory: the first contains the result's dictionary as JSON, the others its arrays. Nothing is pickled,
so that a file that takes control of its reader cannot make the parent run code.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import mmap
import os
import resource
import signal
import socket
import sys
from typing import Any

import numpy as np

from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.imaging.decoding.check import set_limits
from medsam2_atlas.imaging.decoding.limits import DecodingLimits
from medsam2_atlas.imaging.decoding.tasks import PACKET_BYTES, PRELOADED, READY, TASKS

_PAGE = 1 << 12
_MAX_TEXT = 4096  # a reply must fit into a packet; the parent treats a longer one as that of a hijacked reader


def main() -> None:
    """Handles requests until the socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl+C, and closes the socket
    link = socket.socket(fileno=int(sys.argv[1]))
    limits = DecodingLimits.model_validate_json(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_mb * 1_000_000,) * 2)
    set_limits(limits)
    for module in PRELOADED:
        importlib.import_module(module)
    _silence()
    with contextlib.suppress(ConnectionError):  # the parent was killed
        link.send(READY)
        while packet := link.recv(PACKET_BYTES):
            request = json.loads(packet)
            _limit_processor(float(request["seconds"]))
            reply, handles = _answered(request["task"], request["arguments"])
            reply["resident_mb"] = _resident_mb()
            socket.send_fds(link, [json.dumps(reply).encode()], handles)
            for handle in handles:
                os.close(handle)


def _silence() -> None:
    """Discards messages of libraries: they may contain text from the file, which would reach the parent's log unescaped."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def alive() -> tuple[dict[str, Any], list[np.ndarray]]:
    """Returns an empty dictionary and no arrays, which shows that the reader works."""
    return {}, []


def _answered(task: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    handles: list[int] = []
    try:
        module, _, function = TASKS[task].partition(":")
        content, arrays = getattr(importlib.import_module(module), function)(**arguments)
        handles.append(_in_memory(json.dumps(content).encode()))
        for array in arrays:
            handles.append(_array_in_memory(array))
        return {"arrays": [{"dtype": array.dtype.str, "shape": list(array.shape)} for array in arrays]}, handles
    except MedSAM2AtlasError as error:
        about = {"kind": type(error).__name__, "subject": error.subject, "problem": error.problem, "remedy": error.remedy}
        about = {key: text[:_MAX_TEXT] for key, text in about.items()}
        problem: dict[str, Any] = {"error": about}
    except MemoryError:
        problem = {"memory": True}
    except OSError as error:
        problem = {"os_error": [error.errno, str(error)[:_MAX_TEXT]]}
    except Exception as error:  # noqa: BLE001 any error of a library is reported as the file's problem
        problem = {"unforeseen": f"{type(error).__name__}: {str(error)[:500]}"}
    for handle in handles:
        os.close(handle)
    return problem, []


def _in_memory(content: bytes) -> int:
    handle = os.memfd_create("reader", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(handle, "wb", closefd=False) as stream:
        stream.write(content)
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return handle


def _array_in_memory(array: np.ndarray) -> int:
    handle = os.memfd_create("reader", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(handle, max(array.nbytes, 1))
    if array.nbytes:
        with mmap.mmap(handle, array.nbytes) as memory:
            target = np.frombuffer(memory, array.dtype).reshape(array.shape)
            target[...] = array
            del target  # the map cannot be closed while the array exists
    # Seals the size: a parent that reads truncated memory would be killed.
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return handle


def _limit_processor(seconds: float) -> None:
    """Makes the kernel end this process after a further number of seconds of processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, resource.RLIM_INFINITY))


def _resident_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123
        return int(stream.read().split()[1]) * _PAGE / 1e6


if __name__ == "__main__":
    main()
