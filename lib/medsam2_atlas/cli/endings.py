"""Ends a command that fails with one line on standard error and an exit status.

| status | meaning |
| --- | --- |
| 0 | done |
| 1 | an error, printed in one line; also a failed check, as by `doctor` if something is missing |
| 2 | wrong usage |
| 130 | interrupted (Ctrl+C) |
| 141 | the program that read the output ended first, as `head` does; nothing is printed |

The traceback of an unexpected error is written to a file.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
import select
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from rich.markup import escape

from medsam2_atlas.base.console import console
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.base.resource import state_folder

EPILOG = "Exit status: 0 done; 1 an error, printed in one line; 2 wrong usage; 130 interrupted; 141 output pipe closed."

_ERROR, _INTERRUPTED, _PIPE_CLOSED = 1, 130, 141
_KEPT = 20
"""Number of traceback files to keep; older ones are removed."""
_MAX_LENGTH = 300
"""Characters of an unexpected error's text that are printed."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_SPACE_WORDS = ("no space left", "disk quota exceeded", "file write failed")
"""Texts of a full disk's error in libraries that drop the system's error number, such as `torch.save`."""
_NO_MEMORY_WORDS = ("can't allocate memory", "cannot allocate memory", "not enough memory")


@contextmanager
def plain_endings() -> Iterator[None]:
    """Prints an error of the block in one line and exits with its status; `SystemExit` passes unchanged."""
    try:
        yield
        sys.stdout.flush()  # so that an error of the last bytes is handled here and not when the interpreter shuts down
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - users must not see a traceback
        sys.exit(end(error))


def end(error: BaseException) -> int:
    """Prints the error that stopped a command in one line, and returns the exit status."""
    if isinstance(error, KeyboardInterrupt):
        _print("[bold red]interrupted[/]")
        return _INTERRUPTED
    if isinstance(error, BrokenPipeError) and _reader_has_ended():
        return _PIPE_CLOSED
    expected, words = _explanation(error)
    if not expected:
        words = f"{words.rstrip('.')}. {_traceback_place(error)}"
    _print(f"[bold red]error:[/] {escape(words)}")
    return _ERROR


def _explanation(error: BaseException) -> tuple[bool, str]:
    """Returns whether an error is one of the project's own, which needs no traceback, and its explanation."""
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause).lower()
        if isinstance(cause, MedSAM2AtlasError):
            return True, " ".join(str(cause).splitlines())
        if cause.__cause__ is None and (words := _gpu_explanation(cause)):  # the root error; the others were raised from it
            return False, words
        if isinstance(cause, MemoryError) or any(words in text for words in _NO_MEMORY_WORDS):
            return False, "there is too little memory. Close other programs, or use a machine with more memory."
        if getattr(cause, "errno", None) in _NO_SPACE or any(words in text for words in _NO_SPACE_WORDS):
            file = getattr(cause, "filename", None)
            what = f"{file} could not be written: " if file else ""
            return False, f"{what}the disk is full, or your disk quota is used up. Free some space, and run the command again."
        cause = cause.__cause__
    text = " ".join(str(error).split())
    text = text if len(text) <= _MAX_LENGTH else text[:_MAX_LENGTH] + "…"
    return False, f"unexpected {type(error).__name__}" + (f": {text}" if text else "")


def _gpu_explanation(error: BaseException) -> str:
    """Explains an error of a GPU; returns an empty string for other errors."""
    if "torch" not in sys.modules:  # no GPU was used
        return ""
    from medsam2_atlas.base.card_problems import explained
    from medsam2_atlas.base.gpu_errors import is_gpu_failure, is_out_of_memory

    if is_out_of_memory(error):
        return "the GPU has too little free memory. Free some, or use --device cpu."
    if is_gpu_failure(error):
        meant = explained(error)
        return f"the GPU failed: {meant.problem}. {meant.remedy} Or use --device cpu."
    return ""


def _traceback_place(error: BaseException) -> str:
    """Writes the traceback to a file, prints it too if --verbose is set, and returns a sentence that names the file."""
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if logging.getLogger().isEnabledFor(logging.INFO):
        _print(escape(lines.rstrip()))
    file = _traceback_file(lines)
    return "Its traceback could not be written; --verbose prints it." if file is None else f"The full traceback is in {file}"


def _traceback_file(lines: str) -> Path | None:
    """Writes a traceback to a new file that only the user can read; returns None if no folder is writable."""
    now = datetime.now(timezone.utc)
    content = (
        f"medsam2-atlas {_version()}, Python {platform.python_version()}, {platform.platform()}, {now:%Y-%m-%d %H:%M:%S} UTC\n"
        f"command line: {shlex.join(sys.argv)}\nfolder: {_current_folder()}\n\n{lines}"
    ).encode(errors="backslashreplace")
    name = f"{now:%Y%m%d-%H%M%S}-"  # the oldest file comes first
    with suppress(OSError, RuntimeError):  # RuntimeError: the user has no home folder
        folder = state_folder() / "errors"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = _written(content, name, folder)
        for old in sorted(folder.glob("*.txt"))[:-_KEPT]:
            old.unlink(missing_ok=True)
        return file
    with suppress(OSError):
        return _written(content, f"medsam2-atlas-{name}")
    return None


def _written(content: bytes, prefix: str, folder: Path | None = None) -> Path:
    """Writes a new file with mode 0600 into a folder, by default that for temporary files; returns its path."""
    handle, path = tempfile.mkstemp(prefix=prefix, suffix=".txt", dir=folder)
    file = Path(path)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
    except OSError:
        file.unlink(missing_ok=True)
        raise
    return file


def _version() -> str:
    try:
        from medsam2_atlas.base.version import package_version

        return package_version()
    except Exception:  # noqa: BLE001 - a broken installation must not hide the error itself
        return "of unknown version"


def _current_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return "removed"


def _reader_has_ended() -> bool:
    """Returns whether standard output or error is a closed pipe; if so, redirects that stream to the null device.

    Any other broken pipe, such as one to a process that a command started, is an error.
    """
    ended = False
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or not a file
            handle = stream.fileno()
            poll = select.poll()
            poll.register(handle, select.POLLOUT)
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, handle)
                os.close(nowhere)
                ended = True
    return ended


def _print(markup: str) -> None:
    with suppress(OSError):  # standard error is a file on a full disk, or a closed pipe
        console.print(markup, soft_wrap=True, highlight=False)
