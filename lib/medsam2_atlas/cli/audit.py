"""`medsam2-atlas studies audit`: what the audit log has, and whether it is as it was written."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from medsam2_atlas.base.console import console
from medsam2_atlas.cli.options import StudiesArgument

_SHOWN = ("at", "who", "action", "study", "tag", "version", "outcome", "place")


def audit_command(
    studies: StudiesArgument,
    study: Annotated[str, typer.Option(help="Only what was done to this study: its name, or its hash.")] = "",
    who: Annotated[str, typer.Option(help="Only what this person did: name or id.")] = "",
    since: Annotated[str, typer.Option(help="Only lines from this UTC time on, such as 2026-11-26 or 2026-11-26T08:30.")] = "",
    action: Annotated[
        str, typer.Option(help="Only this action, such as label.save, or all that begin so, such as label.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Show the newest lines, so many at most.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as they are, for other programs.")] = False,
) -> None:
    """Print the audit log, the newest last, and check that no line was changed. Exit status 1 if one was."""
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
        console.print(table)
    checked = check(work)
    for problem in checked.problems:
        typer.echo(problem, err=True)
    begin = "" if checked.complete else "; older files are gone"
    typer.echo(f"{checked.lines} lines were checked{begin}; the last one's digest is {checked.last}", err=as_json)
    if checked.problems:
        raise typer.Exit(1)
