"""`medsam2-atlas tokens …`: adds and lists the people who may log in to the server."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from medsam2_atlas.base.console import Table, show
from medsam2_atlas.base.errors import InputError

app = typer.Typer(help="Add and list the people who may log in to the server.", no_args_is_help=True)

_File = Annotated[Path, typer.Argument(help="Token file (YAML), as for `serve --tokens`.")]


@app.command("add")
def add_command(
    file: _File,
    name: Annotated[str, typer.Argument(help="Name of the person.")],
    role: Annotated[str, typer.Option(help="Role of the person: annotator, reviewer or admin.")] = "annotator",
    expires: Annotated[
        str, typer.Option(help="Last day (UTC) on which the token is valid, such as 2027-01-31. Default: no end.")
    ] = "",
) -> None:
    """Add a person to a token file and print the person's token. Copy it now: the file stores only its checksum."""
    from medsam2_atlas.access.token_adding import add_person
    from medsam2_atlas.access.token_entries import ROLES

    if role not in ROLES:
        raise InputError(role, "is not a role.", f"Choose from: {', '.join(ROLES)}.")
    token = add_person(file, name, role, expires)
    typer.echo(f"{name} can log in as {role} with this token, which is not shown again:", err=True)
    typer.echo(token)


@app.command("check")
def check_command(file: _File) -> None:
    """List the people in a token file, or report why the server would refuse the file."""
    from medsam2_atlas.access.token_entries import read_tokens

    table = Table("name", "role", "token ends (UTC)")
    for person in read_tokens(file).values():
        table.add_row(escape(person.name), person.role, _end(person.expires))
    show(table)


def _end(expires: float) -> str:
    if expires == math.inf:
        return ""
    end = datetime.fromtimestamp(expires, timezone.utc)
    return f"{end:%Y-%m-%d %H:%M}" + (" (expired)" if end < datetime.now(timezone.utc) else "")
