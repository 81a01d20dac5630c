"""What the command line shows: tables, progress bars, errors."""

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
    """Standard error. A closed pipe raises its error, as it does everywhere else; rich would end the process itself.

    Names of files and texts in them are shown here: what could control the terminal is shown as escapes.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Called by rich for each string that it is to show, also for those in tables."""
        return super().render_str("\n".join(printable(line) for line in text.split("\n")), **options)

    def on_broken_pipe(self) -> None:
        """Called by rich where it handles the error."""
        raise


class _ShortFormatter(logging.Formatter):
    """Formats an error in one line instead of its traceback."""

    def formatException(self, ei: Any) -> str:
        """Returns the kind of error and its text."""
        return "" if ei[1] is None else f"{type(ei[1]).__name__}: {ei[1]}"


console = _ErrorConsole(stderr=True)


def echo(*lines: str) -> None:
    """Prints lines on standard output. What could control a terminal, or look like another line, is printed as escapes."""
    for line in lines:
        typer.echo(printable(line))


def set_up_logging(verbose: bool) -> None:
    """Log lines go to standard error, beside the bars; tracebacks of logged errors only if `verbose`."""
    handler = RichHandler(console=console, show_path=False)
    handler.setFormatter(LineFormatter((logging.Formatter if verbose else _ShortFormatter)("%(message)s")))
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        handlers=[handler],
        force=True,
    )


@contextmanager
def bars(*, time_left: bool = False) -> Iterator[Progress]:
    """One bar a stage, shown while the block runs. time_left: whether the time that remains is shown, too."""
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
