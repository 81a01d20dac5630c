"""A command that fails prints one line and exits with a status; the traceback is written to a file."""

from __future__ import annotations

import errno
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medsam2_atlas.base.console import set_up_logging
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli import app, endings
from medsam2_atlas.cli.endings import end, plain_endings

_PROGRAM = """
import sys, time
import medsam2_atlas.base.version
def version():
    {body}
medsam2_atlas.base.version.package_version = version
sys.argv = ["medsam2-atlas", *sys.argv[1:]]
import runpy
runpy.run_module("medsam2_atlas", run_name="__main__")
"""
"""Runs `python -m medsam2_atlas` with another body for the command `version`."""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDSAM2_ATLAS_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "400")
    return tmp_path / "state"


@pytest.fixture(autouse=True)
def quiet_logging() -> None:
    set_up_logging(verbose=False)


def command(body: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", _PROGRAM.format(body=body), *arguments, "version"]


def ran(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(body, *arguments), capture_output=True, text=True, check=False)


def test_an_unexpected_error_ends_in_one_line_and_its_traceback_in_a_private_file(state: Path) -> None:
    done = ran("raise ValueError('two\\nlines')")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    (file,) = (state / "errors").iterdir()
    assert line == f"error: unexpected ValueError: two lines. The full traceback is in {file}"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    content = file.read_text()
    for words in (
        "medsam2-atlas of unknown version",
        "command line: medsam2-atlas version",
        "Traceback",
        "two\nlines",
    ):
        assert words in content


def test_verbose_shows_the_traceback_too(state: Path) -> None:
    done = ran("raise ValueError('odd [thing]')", "--verbose")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: unexpected ValueError: odd [thing]. ")


def test_ctrl_c_ends_in_one_line(state: Path) -> None:
    process = subprocess.Popen(
        command("print('ready', flush=True); time.sleep(60)"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore SIGINT
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "interrupted\n")
    assert not state.exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_output_pipe_is_not_an_error(unbuffered: str, state: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command("return 'x' * 100_000"),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
    assert not state.exists()


def test_an_error_with_a_closed_error_pipe_only_writes_its_traceback(state: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command("raise ValueError('x')"), stdout=subprocess.DEVNULL, stderr=writing, check=False)
    os.close(writing)
    assert done.returncode == 1
    assert len(list((state / "errors").iterdir())) == 1


def test_another_broken_pipe_is_an_error(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert end(BrokenPipeError(errno.EPIPE, "Broken pipe")) == 1
    assert "unexpected BrokenPipeError" in capsys.readouterr().err


class OutOfMemoryError(RuntimeError):
    """An error of the same name as torch's error for a full GPU."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "too little memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "too little memory"),
        (OutOfMemoryError("CUDA out of memory."), "the GPU has too little free memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "--device cpu"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might"), "reports a hardware error"),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nFor debugging"), "the GPU failed: CUDA reports"),
        (OSError(errno.ENOSPC, "No space left on device", "out.nii.gz"), "out.nii.gz could not be written: the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "or your disk quota is used up"),
        (RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed"), "the disk is full"),
    ],
)
def test_errors_of_memory_and_disk_are_explained_in_one_line(
    error: Exception, words: str, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = RuntimeError("applying transform Spacingd")
    wrapped.__cause__ = error  # MONAI wraps errors in this way
    for raised in (error, wrapped):
        assert end(raised) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
        assert f"traceback is in {state}/errors/" in line


def test_a_project_error_wrapped_by_a_library_is_reported(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrapped = RuntimeError("applying transform")
    wrapped.__cause__ = InputError("ct.nii.gz", "is\nodd.")
    assert end(wrapped) == 1
    assert capsys.readouterr().err == "error: ct.nii.gz: is odd.\n"
    assert not state.exists()


def test_the_traceback_is_written_to_a_temporary_file_if_the_state_folder_is_unwritable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("MEDSAM2_ATLAS_STATE", str(tmp_path / "file"))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(endings.tempfile, "tempdir", str(tmp_path / "temporary"))
    end(ValueError("x"))
    (file,) = (tmp_path / "temporary").iterdir()
    assert str(file) in capsys.readouterr().err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    monkeypatch.setattr(endings.tempfile, "tempdir", str(tmp_path / "none"))
    end(ValueError("x"))
    assert "could not be written; --verbose prints it" in capsys.readouterr().err


def test_old_tracebacks_are_removed(state: Path) -> None:
    (state / "errors").mkdir(parents=True)
    for n in range(30):
        (state / "errors" / f"20200101-0000{n:02}-1.txt").touch()
    end(ValueError("x"))
    files = sorted(file.name for file in (state / "errors").iterdir())
    assert len(files) == 20
    assert files[-1].startswith(time.strftime("%Y", time.gmtime()))


def test_plain_endings_exit_with_1_and_pass_system_exit_unchanged(state: Path) -> None:
    with pytest.raises(SystemExit) as ended, plain_endings():
        raise ValueError("x")
    assert ended.value.code == 1
    with pytest.raises(SystemExit, match="the server stopped"), plain_endings():
        raise SystemExit("the server stopped")


def test_logged_errors_have_a_traceback_only_with_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (False, True):
        set_up_logging(verbose)
        try:
            raise ValueError("odd")
        except ValueError:
            logging.getLogger("x").exception("%s cannot be compared", "a")
        shown = capsys.readouterr().err
        assert "a cannot be compared" in shown
        assert "ValueError: odd" in shown
        assert ("Traceback" in shown) == verbose


def test_exit_statuses_are_documented() -> None:
    assert "130 interrupted" in " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "400"}).output.split())
