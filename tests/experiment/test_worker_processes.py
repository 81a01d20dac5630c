"""Worker processes end at once when their command fails, and pass errors on."""

from __future__ import annotations

import os
import time
from multiprocessing import parent_process
from pathlib import Path

import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.experiment.workers import worker_processes


def _begin(file: Path) -> None:
    assert parent_process() is not None
    file.write_text(str(os.getpid()), encoding="ascii")


def _refuse() -> None:
    raise InputError("a.nii.gz", "is damaged.", "Remove it.")


class Interrupted(BaseException):
    """Stands for Ctrl+C."""


def test_errors_are_passed_on_and_running_work_ends_when_the_command_is_interrupted(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with pytest.raises(Interrupted), worker_processes(1, _begin, file) as processes:
        with pytest.raises(InputError, match="is damaged") as raised:
            processes.submit(_refuse).result(timeout=60)
        assert (raised.value.subject, raised.value.remedy) == ("a.nii.gz", "Remove it.")
        processes.submit(time.sleep, 600)
        began = time.monotonic()
        raise Interrupted
    assert time.monotonic() - began < 60, "the sleeping worker was not waited for"
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text(encoding="ascii")), 0)
