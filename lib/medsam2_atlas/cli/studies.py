"""`medsam2-atlas studies …`: keeping the records of a studies folder."""

from __future__ import annotations

import typer

from medsam2_atlas.cli.audit import audit_command

app = typer.Typer(help="Records of a studies folder, or of the work folder of a PACS server.", no_args_is_help=True)


@app.callback()
def studies_group() -> None:
    """Records of a studies folder, or of the work folder of a PACS server."""


app.command("audit")(audit_command)
