"""`medsam2-atlas studies …`: the group of commands for the audit log, backups and erasing."""

from __future__ import annotations

import typer

from medsam2_atlas.cli import archives, erase
from medsam2_atlas.cli.audit import audit_command

app = typer.Typer(
    help="Audit, back up, restore and erase a studies folder, or the data that a server keeps for a PACS.",
    no_args_is_help=True,
)
app.command("audit")(audit_command)
app.command("verify")(archives.verify_command)
app.command("backup")(archives.backup_command)
app.command("restore")(archives.restore_command)
app.command("snapshots")(archives.snapshots_command)
app.command("erase")(erase.erase_command)
app.command("readmit")(erase.readmit_command)
