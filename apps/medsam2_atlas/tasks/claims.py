"""Registers the work processes (training, batch, scoring) of a studies folder, and ends those whose server has ended.

MONAI Label runs such work in separate processes, which survive a server that is killed. Each process locks a file in the work
folder while it runs (`flock`, which the system releases however the process ends). The file contains the marks of the process
and of its server. All training shares one lock, so that two trainings never write the same checkpoints; any other process has
its own lock.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil  # type: ignore[import-untyped]
from monailabel.utils.async_tasks import utils as async_tasks

from medsam2_atlas.base.errors import ConflictError
from medsam2_atlas.base.json_text import stored_json
from medsam2_atlas.base.processes import ProcessMark
from medsam2_atlas.storage import WorkFolder

log = logging.getLogger(__name__)

SERVER_VARIABLE = "MEDSAM2_ATLAS_SERVER"
"""Environment variable that passes the server's mark to its work processes."""
TRAINING = "train"
_PROGRAM = "monailabel.interfaces.utils.app"
_END_SECONDS = 10.0


@dataclass(frozen=True)
class Claim:
    """A work process that is registered for the studies.

    Attributes:
        process: mark of the process.
        server: mark of the server that started it; None if unknown.
        method: `train`, `batch_infer` or `scoring`.
        what: name of the model or scoring method.
    """

    process: ProcessMark
    server: ProcessMark | None
    method: str
    what: str

    @property
    def orphaned(self) -> bool:
        """Whether the server has ended; False for servers in another process namespace, such as another container."""
        return self.process.here and self.server is not None and self.server.here and not self.server.alive


def in_work_process() -> bool:
    """Returns whether a server started this process for a training, a batch or a scoring."""
    server = ProcessMark.parse(os.environ.get(SERVER_VARIABLE, ""))
    return server is not None and server != ProcessMark.own()


@contextmanager
def claimed(work: WorkFolder, method: str, what: str) -> Iterator[None]:
    """Registers this process for the duration of the block; does nothing if the server itself runs the block.

    Args:
        work: work folder of the studies.
        method: `train`, `batch_infer` or `scoring`.
        what: name of the model or scoring method.

    Raises:
        ConflictError: the server that started this process has ended, or a training of another running server is in progress.
    """
    server = ProcessMark.parse(os.environ.get(SERVER_VARIABLE, ""))
    claim = Claim(ProcessMark.own(), server, method, what)
    if claim.server == claim.process:
        yield
        return
    if claim.orphaned:
        raise ConflictError(f"{method} of {what}", "is not started, because its server has ended.", "Start it again.")
    name = method if method == TRAINING else f"{method}-{claim.process}"
    file = work.folder("claims") / f"{name}.json"
    stream = _locked(file)
    if stream is None:
        end_orphans(work)
        stream = _locked(file)
    if stream is None:
        raise _busy(_read(file))
    with stream:
        content = {"process": str(claim.process), "server": str(server or ""), "method": method, "what": what}
        stream.truncate(0)
        stream.write(json.dumps(content))
        stream.flush()
        yield


def end_orphans(work: WorkFolder) -> list[Claim]:
    """Ends work processes whose server has ended. Their saved files stay, and the next training resumes from them.

    Returns:
        The claims of the ended processes.
    """
    ended = []
    for claim in _claims(work):
        if claim.orphaned:
            log.warning(
                "%s of %s (process %d) is ended, because its server has ended", claim.method, claim.what, claim.process.number
            )
            if _end(claim):
                ended.append(claim)
    return ended


def work_running(work: WorkFolder) -> bool:
    """Returns whether a training, a batch or a scoring of the studies is running."""
    return bool(_claims(work))


def check_training(work: WorkFolder) -> None:
    """Checks that a training may start; ends trainings whose server has ended.

    Raises:
        ConflictError: another running server trains a model on the same studies.
    """
    end_orphans(work)
    own = ProcessMark.own()
    for claim in _claims(work):
        if claim.method == TRAINING and claim.server != own:
            raise _busy(claim)


def end_own_work(seconds: float = 3.0) -> None:
    """Ends the work processes that this server has started, and cancels those that have not started yet.

    Args:
        seconds: time from SIGTERM to SIGKILL.
    """
    for executor in list(async_tasks.background_executors.values()):
        executor.shutdown(wait=False, cancel_futures=True)
    processes: list[subprocess.Popen[str]] = [p for kind in async_tasks.background_processes.values() for p in kind.values()]
    found: list[psutil.Process] = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += _family(psutil.Process(process.pid))
    if found:
        log.info("ending %d work processes", len(processes))
        _terminate(found, seconds)


def _claims(work: WorkFolder) -> list[Claim]:
    """Returns the locked claims; removes files without a lock, except the training's, whose removal would break its lock."""
    found = []
    for file in sorted((work.path / "claims").glob("*.json")):
        try:
            with file.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            claim = _read(file)
            if claim is not None:
                found.append(claim)
        except OSError as error:
            log.warning("%s cannot be checked: %s", file, error)
        else:
            with suppress(OSError):
                if file.stem != TRAINING and time.time() - file.stat().st_mtime > _END_SECONDS:  # a newer one is locked soon
                    file.unlink()
    return found


def _locked(file: Path) -> IO[str] | None:
    """Opens and locks a file; returns None if another process has locked it."""
    stream = file.open("a", encoding="utf-8")
    for _ in range(20):  # another process that only checks the lock releases it at once
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        except OSError as error:  # the file is on a network disk that does not support locks
            log.warning("%s cannot be locked (%s); another server could train at the same time", file, error)
            return stream
        else:
            return stream
    stream.close()
    return None


def _read(file: Path) -> Claim | None:
    """Reads a claim; returns None if the file is damaged."""
    for _ in range(5):  # the other process locks the file before it writes it
        try:
            content: dict[str, Any] = stored_json(file.read_text(encoding="utf-8"))
            process = ProcessMark.parse(str(content["process"]))
            if process is not None:
                return Claim(process, ProcessMark.parse(str(content["server"])), str(content["method"]), str(content["what"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        time.sleep(0.05)
    return None


def _busy(claim: Claim | None) -> ConflictError:
    what = f"{claim.what} (process {claim.process.number})" if claim else "a model"
    return ConflictError("training", f"of {what} is running already, for another server.", "Wait for it, or end it there.")


def _end(claim: Claim) -> bool:
    """Ends the process of a claim unless another program has its number now; returns whether the process has ended."""
    try:
        process = psutil.Process(claim.process.number)
        if not claim.process.alive or not any(_PROGRAM in part for part in process.cmdline()):
            log.warning("process %d is not the one that registered %s; it is not ended", process.pid, claim.what)
            return False
        return _terminate(_family(process), _END_SECONDS)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied as error:
        log.warning("process %d cannot be ended: %s", claim.process.number, error)
        return False


def _family(process: psutil.Process) -> list[psutil.Process]:
    """Returns a process and all its descendants."""
    return [process, *process.children(recursive=True)]


def _terminate(processes: list[psutil.Process], seconds: float) -> bool:
    """Ends processes by SIGTERM, and after `seconds` by SIGKILL; returns whether all have ended."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=seconds)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return not psutil.wait_procs(left, timeout=2.0)[1]
