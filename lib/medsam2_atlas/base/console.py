"""Shows tables, progress bars and errors on the command line."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table as RichTable
from rich.text import Text

from medsam2_atlas.base.printable import LineFormatter, printable
from medsam2_atlas.base.progress import OrganShares, Progress, showing

LINE_SECONDS = 60.0
"""Time between two lines about the progress of a stage, if there is no terminal."""


class _SafeConsole(Console):
    """A console for texts from outside. A closed pipe raises its error as usual; rich would end the process itself.

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


class Table(RichTable):
    """A table that folds long words, such as paths. Rich would cut them off."""

    def add_column(self, *args: Any, overflow: Any = "fold", **options: Any) -> None:
        """Adds a column; see rich."""
        super().add_column(*args, overflow=overflow, **options)


console = _SafeConsole(stderr=True)
"""The console on standard error, for progress, remarks and errors."""
_MAX_WIDTH = 1000
"""Max characters of a line of a table that another program reads."""


def show(table: Table) -> None:
    """Prints a table with results on standard output.

    If another program reads it, each row is one line, unless the width is set by `$COLUMNS`.
    """
    output = _SafeConsole()
    if not output.is_terminal and "COLUMNS" not in os.environ:
        wide = output.options.update(max_width=_MAX_WIDTH)
        output.width = max(output.width, output.measure(table, options=wide).maximum)
    output.print(table)


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


class _Bars(Bars):
    """Progress bars with a line below them that shows what the job works on."""

    note = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yields the bars and the line."""
        yield from super().get_renderables()
        if self.note:
            yield Text(f"  {printable(self.note)}", style="dim", no_wrap=True, overflow="ellipsis")

    def show(self, text: str) -> None:
        """Shows what the job works on."""
        self.note = text


@contextmanager
def bars() -> Iterator[Progress]:
    """Shows the progress of a job for the duration of the block; yields the progress callable.

    A terminal shows a bar with the remaining time for each stage, and below them what the job works on (`progress.doing`).
    Elsewhere, such as in a log file, each stage gets a line when it begins, and then a line each minute.
    """
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description:<22}"), BarColumn(24), TextColumn("{task.percentage:>3.0f} %"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with _Bars(*columns, *times, console=console, transient=False) as display, showing(display.show):
        tasks: dict[str, TaskID] = {}
        organs, last = OrganShares(), ""

        def progress(stage: str, share: float, organ: int | None = None) -> None:
            nonlocal last
            ready = organs.add(stage, share, organ)
            if ready != last:
                last = ready
                display.show(ready)
            if organ is not None:
                return
            if stage not in tasks or (display.tasks[tasks[stage]].finished and share < 1):
                tasks[stage] = display.add_task(stage, total=1.0)
            display.update(tasks[stage], completed=share)

        try:
            yield progress
        finally:
            display.show("")


def _lines() -> Progress:
    """Returns a progress callable that prints plain lines."""
    stages: dict[str, float] = {}
    printed = 0.0

    def progress(stage: str, share: float, organ: int | None = None) -> None:
        nonlocal printed
        now = time.monotonic()
        if organ is not None:
            return
        if stage not in stages:
            stages[stage] = printed = now
            console.print(f"{stage} …", markup=False, highlight=False)
        elif now - printed >= LINE_SECONDS and 0 < share < 1:
            printed = now
            left = (now - stages[stage]) * (1 - share) / share
            console.print(f"{stage} {share:.0%}, about {_duration(left)} left", markup=False, highlight=False)

    return progress


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
