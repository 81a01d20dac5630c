"""`medsam2-atlas tokens …`: who may log in at the server."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from medsam2_atlas.base.console import console
from medsam2_atlas.base.errors import InputError

app = typer.Typer(help="Files of tokens: who may log in at the server.", no_args_is_help=True)

_File = Annotated[Path, typer.Argument(help="File of tokens (YAML), as `serve --tokens` takes it.")]


@app.command("add", epilog="Example: medsam2-atlas tokens add tokens.yaml kim --role reviewer --expires 2027-01-31")
def add_command(
    file: _File,
    name: Annotated[str, typer.Argument(help="Name of the person.")],
    role: Annotated[str, typer.Option(help="annotator, reviewer or admin.")] = "annotator",
    expires: Annotated[str, typer.Option(help="Last day of the token (UTC), such as 2027-01-31.")] = "",
) -> None:
    """Add a person to a file of tokens, and print their token. It is shown only once: the file holds its checksum."""
    from medsam2_atlas.access.token_adding import add_person
    from medsam2_atlas.access.token_entries import ROLES

    if role not in ROLES:
        raise InputError(role, "is no role.", f"Choose from: {', '.join(ROLES)}.")
    token = add_person(file, name, role, expires)
    typer.echo(f"{name} may log in as {role} with this token, which is not shown again:", err=True)
    typer.echo(token)


@app.command("check", epilog="Example: medsam2-atlas tokens check tokens.yaml")
def check_command(file: _File) -> None:
    """List the people of a file of tokens, or tell why the server would refuse it."""
    from medsam2_atlas.access.token_entries import read_tokens

    table = Table("name", "role", "token ends (UTC)")
    for person in read_tokens(file).values():
        table.add_row(person.name, person.role, _end(person.expires))
    console.print(table)


def _end(expires: float) -> str:
    if expires == math.inf:
        return ""
    end = datetime.fromtimestamp(expires, timezone.utc)
    return f"{end:%Y-%m-%d %H:%M}" + (" (over)" if end < datetime.now(timezone.utc) else "")
