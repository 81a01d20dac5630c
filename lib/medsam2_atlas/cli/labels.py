"""`medsam2-atlas labels …`: lists, checks, restores and reviews versions of label maps in a studies folder."""

from __future__ import annotations

import getpass
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medsam2_atlas.audit.log import record_command
from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.base.console import Table, echo, show
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.base.file_modes import umask_of_user
from medsam2_atlas.base.files import replacing
from medsam2_atlas.cli.folders import study_folder
from medsam2_atlas.cli.outputs import check_files

if TYPE_CHECKING:
    from medsam2_atlas.storage import StudyStore, Version

app = typer.Typer(help="Manage the versions of label maps in a studies folder.", no_args_is_help=True)

_Studies = Annotated[Path, typer.Argument(help="Studies folder: CTs at its top, label maps in labels/TAG/.")]
_Study = Annotated[str, typer.Argument(help="Name of the study: its file name without suffix.")]
_Tag = Annotated[str, typer.Option(help="Tag of the label map.")]

_COLUMNS = ("study", "tag", "version", "made (UTC)", "by", "origin", "accepted by", "returned by", "file")
_MINUTE = len("2026-11-26T08:30")


@app.command("list")
def list_command(
    studies: _Studies, study: Annotated[str | None, typer.Argument(help="Study to list. Default: all.")] = None
) -> None:
    """List all versions of all label maps; an asterisk marks the current versions. Files are relative to STUDIES."""
    store = _open(studies)
    rows, current = list[tuple[str, ...]](), store.labels()
    for name in [study] if study else store.images():
        for tag in store.tags(name):
            try:
                versions = store.versions(name, tag)
            except MedSAM2AtlasError as error:  # one unusable label map must not hide the others
                rows.append((name, tag, "", "", "", "", "", "", str(error)))
                continue
            for version in versions:
                now = current.get(name, {}).get(tag)
                marked = f"{version.number} *" if now and now.version.number == version.number else str(version.number)
                made = (version.made[:_MINUTE].replace("T", " "), version.author, version.origin)
                reviewed = (version.accepted.get("by", ""), version.returned.get("by", ""))
                rows.append((name, tag, marked, *made, *reviewed, _file(store, studies, name, tag, version)))
    used = [n for n in range(len(_COLUMNS)) if any(row[n] for row in rows)]  # nine columns are too many for most terminals
    table = Table(*(_COLUMNS[n] for n in used))
    for row in rows:
        table.add_row(*(escape(row[n]) for n in used))
    if rows:
        show(table)
    else:
        echo("There are no label maps.")
    _print_problems(store)


@app.command("check")
def check_command(studies: _Studies) -> None:
    """Check label maps that other programs have written into the folder, and the images that they were drawn on."""
    store = _open(studies)
    echo(f"label maps that were new or changed, and were checked: {store.audit()}")
    _print_problems(store)


@app.command("restore")
def restore_command(
    studies: _Studies,
    study: _Study,
    version: Annotated[int, typer.Argument(help="Number of the version, as in `labels list`.")],
    tag: _Tag = FINAL,
) -> None:
    """Make an earlier version the current one; the replaced version is kept."""
    saved = _open(studies).restore_label(study, tag, version, author=getpass.getuser())
    _record(studies, "label.restore", study, tag, saved.label.version.number)
    echo(f"version {version} is current again, as version {saved.label.version.number}: {saved.label.file}")


@app.command("confirm")
def confirm_command(studies: _Studies, study: _Study, tag: _Tag = FINAL) -> None:
    """Confirm that a label map is valid although its image was replaced or several different files of it were found."""
    saved = _open(studies).confirm_label(study, tag, author=getpass.getuser())
    _record(studies, "label.confirm", study, tag, saved.label.version.number)
    echo(f"confirmed as version {saved.label.version.number}: {saved.label.file}")


@app.command("accept")
def accept_command(
    studies: _Studies,
    study: _Study,
    version: Annotated[int, typer.Argument(help="Number of the version that you have reviewed, as in `labels list`.")],
) -> None:
    """Accept a signed-off label map as its reviewer. Nobody can accept a label map that they drew themselves."""
    from medsam2_atlas.storage import Person

    label = _open(studies).accept_label(study, FINAL, version, Person(getpass.getuser()))
    _record(studies, "label.accept", study, FINAL, version)
    echo(f"version {label.version.number} is accepted by {label.version.accepted['by']}")


@app.command("return")
def return_command(
    studies: _Studies,
    study: _Study,
    version: Annotated[int, typer.Argument(help="Number of the version that you have reviewed, as in `labels list`.")],
    comment: Annotated[str, typer.Option(help="What the author should change.")],
) -> None:
    """Return a signed-off label map to its author with a comment. Models do not learn from it. Needs the review stage."""
    from medsam2_atlas.storage import Person

    _open(studies).return_label(study, FINAL, version, Person(getpass.getuser()), comment)
    _record(studies, "label.return", study, FINAL, version)
    echo(f"version {version} is returned to its author")


@app.command("export")
def export_command(
    studies: _Studies,
    study: _Study,
    version: Annotated[int, typer.Argument(help="Number of the version, as in `labels list`.")],
    out: Annotated[Path, typer.Argument(help="File to write, with the suffix of the version's file.")],
    tag: _Tag = FINAL,
) -> None:
    """Copy a version of a label map to a file."""
    from medsam2_atlas.storage import suffix_of

    source = _open(studies).version_file(study, tag, version)
    check_files((out, (suffix_of(source.name, labels=True),)), inputs=(source,))  # the file is copied, not converted
    with umask_of_user(), replacing(out) as part:
        shutil.copyfile(source, part)
    _record(studies, "export.label", study, tag, version)
    echo(f"written to {out}")


def _record(studies: Path, action: str, study: str, tag: str, version: int) -> None:
    from medsam2_atlas.storage import WorkFolder

    record_command(WorkFolder.of(studies), action, study=study, tag=tag, version=version)


def _file(store: StudyStore, studies: Path, study: str, tag: str, version: Version) -> str:
    if version.removed:
        return ""
    try:
        return os.path.relpath(store.version_file(study, tag, version.number), studies.resolve())
    except MedSAM2AtlasError as error:
        return str(error)


def _print_problems(store: StudyStore) -> None:
    for study, problems in store.problems().items():
        for what, problem in problems.items():
            echo(f"{study} ({what}): {problem}")


def _open(studies: Path) -> StudyStore:
    return study_folder(studies).store
