"""`medsam2-atlas studies audit`: prints the audit log, and checks that it was not changed."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape

from medsam2_atlas.base.console import Table, show
from medsam2_atlas.cli.options import StudiesArgument

_SHOWN = ("at", "who", "action", "study", "tag", "version", "outcome", "place")


def audit_command(
    studies: StudiesArgument,
    study: Annotated[str, typer.Option(help="Print only lines about this study (name or hash). Default: all.")] = "",
    who: Annotated[str, typer.Option(help="Print only lines about this person (name or id). Default: all.")] = "",
    since: Annotated[
        str, typer.Option(help="Print only lines from this UTC time on, such as 2026-11-26 or 2026-11-26T08:30. Default: all.")
    ] = "",
    action: Annotated[
        str, typer.Option(help="Print only this action, such as label.save, or this group, such as label. Default: all.")
    ] = "",
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, help="Max number of lines to print; the newest are printed.")
    ] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print each line of the log as JSON instead of a table.")] = False,
) -> None:
    """Print the audit log, newest line last, and check that no line was changed.

    The exit status is 1 if a line was changed.
    """
    from medsam2_atlas.archive import Place
    from medsam2_atlas.audit.reading import LineQuery, check, lines

    work = Place.existing(studies).work
    found = lines(work, LineQuery(since, study, who, action, limit))
    if as_json:
        for line in found:
            typer.echo(json.dumps(line, separators=(",", ":")))
    else:
        table = Table(*_SHOWN)
        for line in found:
            table.add_row(*(escape(str(line.get(key, ""))) for key in _SHOWN))
        show(table)
    checked = check(work)
    for problem in checked.problems:
        typer.echo(problem, err=True)
    begin = "" if checked.complete else "; older files were deleted"
    typer.echo(f"{checked.lines} lines were checked{begin}; the digest of the last line is {checked.last}", err=as_json)
    if checked.problems:
        raise typer.Exit(1)
