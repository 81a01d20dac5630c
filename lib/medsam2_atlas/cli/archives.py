"""`medsam2-atlas studies verify`, `backup`, `restore` and `snapshots`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medsam2_atlas.audit.log import record_command
from medsam2_atlas.base.console import Table, bars, echo, show
from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.cli.options import StudiesArgument
from medsam2_atlas.cli.outputs import JSON, check_files, check_folder

if TYPE_CHECKING:
    from medsam2_atlas.archive import Backup, Verification

_Dest = Annotated[Path, typer.Argument(help="Backup folder, on another disk than the studies.")]


def verify_command(
    studies: Annotated[
        str,
        typer.Argument(
            help="Studies folder, backup folder, or the DICOMweb URL that the server on this machine was started with."
        ),
    ],
    again: Annotated[
        bool, typer.Option("--again", help="Start from the first file instead of resuming an interrupted verification.")
    ] = False,
    report: Annotated[Path | None, typer.Option("--report", help="JSON file to write the findings to. Default: none.")] = None,
) -> None:
    """Compare every file with its recorded checksum. The exit status is 1 if a file is damaged or missing.

    An interrupted verification resumes. The server may run at the same time.
    """
    check_files((report, JSON))
    from medsam2_atlas.archive import IDENTITY, Place, verify, verify_backup
    from medsam2_atlas.base.files import write_json

    backup = (Path(studies) / IDENTITY).is_file()
    with bars() as progress:
        if backup:
            found = verify_backup(Path(studies), again=again, progress=progress)
        else:
            found = verify(Place.existing(studies), again=again, progress=progress)
    if report is not None:
        write_json([vars(finding) for finding in found.findings], report)
    _print_verification(found)


def backup_command(
    studies: StudiesArgument,
    dest: _Dest,
    images: Annotated[bool, typer.Option(help="Copy the CTs. Use --no-images only if they are archived elsewhere.")] = True,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Number of newest snapshots to keep; older ones are removed. Default: all.")
    ] = None,
    moved: Annotated[
        bool, typer.Option("--moved", help="Continue a backup of studies that have a new path or URL since its last snapshot.")
    ] = False,
) -> None:
    """Add a snapshot of the studies to a backup. Only new contents are copied. The server may run at the same time.

    The exit status is 1 if files are damaged or could not be copied; the snapshot contains all other files.
    """
    check_folder(dest)
    from medsam2_atlas.archive import Place, back_up
    from medsam2_atlas.storage import WorkFolder

    place, done = Place.existing(studies), False
    details: dict[str, object] = {"to": str(dest.absolute()), "images": images}
    try:
        with bars() as progress:
            made = back_up(place, dest, images=images, keep=keep, moved=moved, progress=progress)
        details |= {"snapshot": made.snapshot.name, "problems": len(made.snapshot.problems), "removed": len(made.removed)}
        done = True
    finally:
        record_command(WorkFolder(place.work), "studies.backup", outcome="done" if done else "failed", details=details)
    _print_backup(made, keep)


def restore_command(
    dest: _Dest,
    studies: Annotated[
        str, typer.Argument(help="Empty or new studies folder, or a DICOMweb URL for which this machine keeps no data.")
    ],
    snapshot: Annotated[str, typer.Option(help="Name of the snapshot, or the start of the name. Default: the newest.")] = "",
) -> None:
    """Restore a snapshot to an empty folder or an unused URL, and verify it there. An interrupted restore resumes."""
    from medsam2_atlas.archive import Place, restore, verify
    from medsam2_atlas.storage import WorkFolder

    place = Place.of(studies)
    check_folder(place.root)
    with bars() as progress:
        made = restore(dest, place, when=snapshot, progress=progress)
        details = {"from": str(dest.absolute()), "snapshot": made.snapshot.name, "damaged": len(made.damaged)}
        record_command(WorkFolder(place.work), "studies.restore", details=details)
        found = verify(place, again=True, images=made.snapshot.images, progress=progress)
    echo(f"{len(made.snapshot.entries) - len(made.damaged)} files of {made.snapshot.name} are in {place.root}")
    for path, problem in made.damaged.items():
        echo(f"{path} {problem} Take it from another backup.")
    _print_verification(found, failed=bool(made.damaged))


def snapshots_command(dest: _Dest) -> None:
    """List the snapshots of a backup, oldest first."""
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
        cells = (str(len(found.entries)), f"{found.size / 1e6:.1f}", "yes" if found.images else "no", str(len(found.problems)))
        table.add_row(name, *cells)
    show(table)
    if failed:
        raise typer.Exit(1)


def _print_verification(found: Verification, *, failed: bool = False) -> None:
    """Prints the findings of a verification; exits with status 1 if a file is lost or `failed` is set."""
    for finding in found.findings:
        echo(f"{'' if finding.lost else 'note: '}{finding.path} {finding.problem} {finding.remedy}".rstrip())
    lost = sum(finding.lost for finding in found.findings)
    before = f", {found.resumed} of them by the interrupted run" if found.resumed else ""
    echo(f"{found.files} files were read{before}; {lost or 'no'} {'problem' if lost == 1 else 'problems'}")
    if lost or failed:
        raise typer.Exit(1)


def _print_backup(made: Backup, keep: int | None) -> None:
    """Prints the result of a backup; exits with status 1 if the snapshot has problems."""
    snapshot = made.snapshot
    for path, reason in sorted(made.left_out.items()):
        echo(f"note: {path} {reason}")
    for path, problem in sorted(snapshot.problems.items()):
        echo(f"{path} {problem}")
    echo(f"snapshot {snapshot.name}: {len(snapshot.entries)} files; new contents: {made.added}")
    for name in made.removed:
        echo(f"snapshot {name} was removed")
    if snapshot.problems:
        if keep is not None:
            echo("no snapshot was removed, because older ones may contain intact copies of the damaged files")
        raise typer.Exit(1)
