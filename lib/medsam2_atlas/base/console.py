"""Shows tables, progress bars and errors on the command line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from medsam2_atlas.base.printable import LineFormatter, printable
from medsam2_atlas.base.progress import Progress


class _ErrorConsole(Console):
    """The console on standard error. A closed pipe raises its error as usual; rich would end the process itself.

    File names and texts from files are shown here, so characters that could control the terminal are shown as escapes.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns the text to show for a string; rich calls this for each string, including those in tables."""
        return super().render_str("\n".join(printable(line) for line in text.split("\n")), **options)

    def on_broken_pipe(self) -> None:
        """Raises the error again; rich calls this while it handles the error."""
        raise


class _ShortFormatter(logging.Formatter):
    """Formats an error as one line instead of a traceback."""

    def formatException(self, ei: Any) -> str:
        """Returns the type of an error and its text."""
        return "" if ei[1] is None else f"{type(ei[1]).__name__}: {ei[1]}"


console = _ErrorConsole(stderr=True)


def echo(*lines: str) -> None:
    """Prints lines on standard output. Characters that could control a terminal or start another line become escapes."""
    for line in lines:
        typer.echo(printable(line))


def set_up_logging(verbose: bool) -> None:
    """Sends log lines to standard error, together with the progress bars.

    Args:
        verbose: whether messages of level INFO, and tracebacks of logged errors, are shown too.
    """
    handler = RichHandler(console=console, show_path=False)
    handler.setFormatter(LineFormatter((logging.Formatter if verbose else _ShortFormatter)("%(message)s")))
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        handlers=[handler],
        force=True,
    )


@contextmanager
def bars(*, time_left: bool = False) -> Iterator[Progress]:
    """Shows one progress bar per stage for the duration of the block; yields the progress callable that moves the bars.

    Args:
        time_left: whether the bars also show the estimated remaining time.
    """
    columns: list[ProgressColumn] = [TextColumn("{task.description:<26}"), BarColumn()]
    columns += [TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn()]
    if time_left:
        columns += [TextColumn("left"), TimeRemainingColumn()]
    with Bars(*columns, console=console, transient=False) as display:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, share: float, organ: int | None = None) -> None:
            if organ is not None:
                return
            if stage not in tasks or (display.tasks[tasks[stage]].finished and share < 1):
                tasks[stage] = display.add_task(stage, total=1.0)
            display.update(tasks[stage], completed=share)

        yield progress
