"""`medsam2-atlas studies erase` and `readmit`: what a patient's withdrawal asks for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from medsam2_atlas.base.console import bars, console, echo
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.cli.options import StudiesArgument

if TYPE_CHECKING:
    from medsam2_atlas.archive import Place
    from medsam2_atlas.erasing import Erasure

_Study = Annotated[str, typer.Argument(help="Name of the study: its file's name without suffix; a series' UID for a PACS.")]


def erase_command(
    studies: StudiesArgument,
    study: _Study,
    reason: Annotated[str, typer.Option(help="Kept in the audit log. It must not hold the study's or the patient's name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be erased, and change nothing.")] = False,
) -> None:
    """Erase a study for good: image, all versions of all label maps, predictions, drafts, pictures, measures, cached series,
    and its share in the atlas. One line in the audit log remains.

    Runs beside a live server, but not beside a training. It tells what it cannot erase, and what to do about that.
    """
    from medsam2_atlas.archive import Place
    from medsam2_atlas.base import file_modes
    from medsam2_atlas.erasing import erase, preview

    place = Place.existing(studies)
    file_modes.follow(place.work)
    if dry_run:
        _tell(preview(place, study), "would be erased")
        return
    if not yes:
        _tell(preview(place, study), "are to be erased")
        typed = typer.prompt("This cannot be undone. Type the study's name to erase it", default="", show_default=False)
        if typed != study:
            raise InputError("the study", "was not erased: another name was typed.", "Type it as it is on the command line.")
    done = erase(place, study, reason)
    _tell(done, "were erased")
    if done.rebuild:
        _build_atlas_again(place)


def readmit_command(studies: StudiesArgument, study: _Study) -> None:
    """Let a server fetch an erased series of its PACS again."""
    from medsam2_atlas.archive import Place
    from medsam2_atlas.base import file_modes
    from medsam2_atlas.erasing import readmit

    place = Place.existing(studies)
    file_modes.follow(place.work)
    readmit(place, study)
    echo("The server may fetch the series again.")


def _tell(erasure: Erasure, what: str) -> None:
    for path in (*erasure.paths, *erasure.atlas):
        echo(f"  {path}")
    echo(f"{len(erasure.paths)} files and folders {what}, and its share in {len(erasure.atlas)} versions of the atlas.")
    for text in erasure.not_erased:
        console.print("not erased:", text, markup=False, soft_wrap=True, style="yellow")


def _build_atlas_again(place: Place) -> None:
    """Builds an atlas that grew from signed-off labels alone again, with a new common space."""
    from medsam2_atlas.cli.cases import learnable, print_left_out
    from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
    from medsam2_atlas.storage import StudyFolder, WorkFolder
    from medsam2_atlas.studies import StudiesGrowthOptions, grow_studies_atlas

    echo("The atlas was made from the study, too: it is built again without it.")
    try:
        rule = HuRule.parse(json.loads((place.work / "atlas" / "stats.json").read_text(encoding="utf-8"))["hu"]["rule"])
    except (OSError, ValueError, KeyError, TypeError):
        rule = CHECK
    skipped: dict[str, str] = {}
    try:
        finals = learnable(StudyFolder(place.studies), skipped)
        with bars() as progress:
            options = StudiesGrowthOptions(rebuild=True, hu=rule)
            report = grow_studies_atlas(WorkFolder(place.work), None, finals, options, skipped=skipped, progress=progress)
    except MedSAM2AtlasError as error:
        console.print("There is no atlas now:", error, markup=False, soft_wrap=True, style="yellow")
        print_left_out(skipped)
    else:
        echo(f"atlas {report['version']} of {report['references']} references: {report['folder']}")
