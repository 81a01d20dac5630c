"""`medsam2-atlas studies verify`, `backup`, `restore` and `snapshots`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from medsam2_atlas.audit.log import record_command
from medsam2_atlas.base.console import bars, console, echo
from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.cli.options import StudiesArgument
from medsam2_atlas.cli.outputs import JSON, check_files

if TYPE_CHECKING:
    from medsam2_atlas.archive import Backup, Verification

_Dest = Annotated[Path, typer.Argument(help="Folder of the backup, on another disk.")]


def verify_command(
    studies: Annotated[
        str, typer.Argument(help="Studies folder, DICOMweb URL of this machine's server, or folder of a backup.")
    ],
    again: Annotated[
        bool, typer.Option("--again", help="Begin anew instead of going on where a verification was stopped.")
    ] = False,
    report: Annotated[Path | None, typer.Option("--report", help="Write the findings to this file, as JSON.")] = None,
) -> None:
    """Compare every file with its recorded checksum. Exit status 1 if something is damaged or missing.

    A verification that was stopped goes on where it was. Runs beside a live server.
    """
    check_files((report, JSON))
    from medsam2_atlas.archive import IDENTITY, Place, verify, verify_backup
    from medsam2_atlas.base.files import write_json

    backup = (Path(studies) / IDENTITY).is_file()
    with bars(time_left=True) as progress:
        if backup:
            found = verify_backup(Path(studies), again=again, progress=progress)
        else:
            found = verify(Place.existing(studies), again=again, progress=progress)
    if report is not None:
        write_json([vars(finding) for finding in found.findings], report)
    _tell(found)


def backup_command(
    studies: StudiesArgument,
    dest: _Dest,
    images: Annotated[bool, typer.Option(help="Copy the CTs; leave them out only if they are archived elsewhere.")] = True,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Number of snapshots that stay; older ones are removed. All stay by default.")
    ] = None,
    moved: Annotated[bool, typer.Option("--moved", help="Accept studies whose path or URL has changed.")] = False,
) -> None:
    """Add a snapshot of the studies to a backup; only what is new is copied. Runs beside a live server.

    Exit status 1 if files could not be copied or are damaged: the snapshot holds all others.
    """
    from medsam2_atlas.archive import Place, back_up
    from medsam2_atlas.storage import WorkFolder

    place, done = Place.existing(studies), False
    details: dict[str, object] = {"to": str(dest.absolute()), "images": images}
    try:
        with bars(time_left=True) as progress:
            made = back_up(place, dest, images=images, keep=keep, moved=moved, progress=progress)
        details |= {"snapshot": made.snapshot.name, "problems": len(made.snapshot.problems), "removed": len(made.removed)}
        done = True
    finally:
        record_command(WorkFolder(place.work), "studies.backup", outcome="done" if done else "failed", details=details)
    _tell_backup(made, keep)


def restore_command(
    dest: _Dest,
    studies: Annotated[
        str, typer.Argument(help="Folder that is empty or new, or a DICOMweb URL for which nothing is kept here.")
    ],
    snapshot: Annotated[str, typer.Option(help="Name of the snapshot, or its beginning; the newest by default.")] = "",
) -> None:
    """Restore a snapshot into an empty place, and verify it there. A restore that was stopped goes on."""
    from medsam2_atlas.archive import Place, restore, verify
    from medsam2_atlas.storage import WorkFolder

    place = Place.of(studies)
    with bars(time_left=True) as progress:
        made = restore(dest, place, when=snapshot, progress=progress)
        details = {"from": str(dest.absolute()), "snapshot": made.snapshot.name, "damaged": len(made.damaged)}
        record_command(WorkFolder(place.work), "studies.restore", details=details)
        found = verify(place, again=True, images=made.snapshot.images, progress=progress)
    echo(f"{len(made.snapshot.entries) - len(made.damaged)} files of {made.snapshot.name} are in {place.root}")
    for path, problem in made.damaged.items():
        echo(f"{path} {problem} Take it from another backup.")
    _tell(found, failed=bool(made.damaged))


def snapshots_command(dest: _Dest) -> None:
    """List the snapshots of a backup, the oldest first."""
    from medsam2_atlas.archive import Vault

    vault = Vault.existing(dest)
    table = Table("snapshot", "files", "MB", "images", "problems", title=escape(vault.identity()[1]))
    failed = False
    for name in vault.names():
        try:
            found = vault.snapshot(name)
        except StorageError as error:
            table.add_row(name, "", "", "", escape(error.problem))
            failed = True
            continue
        told = (str(len(found.entries)), f"{found.size / 1e6:.1f}", "yes" if found.images else "no", str(len(found.problems)))
        table.add_row(name, *told)
    console.print(table)
    if failed:
        raise typer.Exit(1)


def _tell(found: Verification, *, failed: bool = False) -> None:
    """Prints what a verification has found, and ends the command with its exit status."""
    for finding in found.findings:
        echo(f"{'' if finding.lost else 'note: '}{finding.path} {finding.problem} {finding.remedy}".rstrip())
    lost = sum(finding.lost for finding in found.findings)
    before = f", {found.resumed} of them by the run that was stopped" if found.resumed else ""
    echo(f"{found.files} files were read{before}; {lost or 'no'} {'problem' if lost == 1 else 'problems'}")
    if lost or failed:
        raise typer.Exit(1)


def _tell_backup(made: Backup, keep: int | None) -> None:
    snapshot = made.snapshot
    for path, reason in sorted(made.left_out.items()):
        echo(f"note: {path} {reason}")
    for path, problem in sorted(snapshot.problems.items()):
        echo(f"{path} {problem}")
    echo(f"snapshot {snapshot.name}: {len(snapshot.entries)} files, of which new contents: {made.added}")
    for name in made.removed:
        echo(f"snapshot {name} was removed")
    if snapshot.problems:
        if keep is not None:
            echo("no snapshot was removed, since older ones may hold what is damaged now")
        raise typer.Exit(1)
