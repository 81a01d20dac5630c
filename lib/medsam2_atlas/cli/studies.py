"""`medsam2-atlas studies …`: the group of commands for the audit log, backups and erasing."""

from __future__ import annotations

import typer

from medsam2_atlas.cli import archives, erase
from medsam2_atlas.cli.audit import audit_command

app = typer.Typer(
    help="Audit, back up, restore and erase a studies folder, or the data that a server keeps for a PACS.",
    no_args_is_help=True,
)
for name, command, example in (
    ("audit", audit_command, "audit /srv/studies --study case-7 --since 2026-11-01"),
    ("verify", archives.verify_command, "verify /srv/studies --report findings.json"),
    ("backup", archives.backup_command, "backup /srv/studies /mnt/backup/studies --keep 30"),
    ("restore", archives.restore_command, "restore /mnt/backup/studies /srv/studies --snapshot 2026-11-26"),
    ("snapshots", archives.snapshots_command, "snapshots /mnt/backup/studies"),
    ("erase", erase.erase_command, 'erase /srv/studies case-7 --reason "consent withdrawn"'),
    ("readmit", erase.readmit_command, "readmit https://pacs.example.org/dicom-web 1.2.840.1"),
):
    app.command(name, epilog=f"Example: medsam2-atlas studies {example}")(command)
