"""`medsam2-atlas studies erase` and `readmit`: erases a study, for example after a patient has withdrawn consent."""

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

_Study = Annotated[str, typer.Argument(help="Name of the study: its file name without suffix, or the series UID for a PACS.")]


def erase_command(
    studies: StudiesArgument,
    study: _Study,
    reason: Annotated[
        str, typer.Option(help="Reason, kept in the audit log. It must not contain the name of the study or the patient.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Erase without asking for confirmation.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be erased, and change nothing.")] = False,
) -> None:
    """Erase a study permanently. Only one line in the audit log remains.

    The command erases the image, all versions of all label maps, predictions, drafts, pictures, measures, cached series, and
    the study's share in the atlas. It lists the data that it cannot erase, with remedies. The server may run at the same time,
    but not a training.
    """
    from medsam2_atlas.archive import Place
    from medsam2_atlas.base import file_modes
    from medsam2_atlas.erasing import erase, preview

    place = Place.existing(studies)
    file_modes.follow(place.work)
    if dry_run:
        _print_erasure(preview(place, study), "would be erased")
        return
    if not yes:
        _print_erasure(preview(place, study), "will be erased")
        question = "This cannot be undone. Type the study's name to erase it"
        try:
            typed = typer.prompt(question, default="", show_default=False)
        except typer.Abort:
            remedy = "Type its name when you are asked, or add --yes."
            raise InputError("the study", "was not erased, because nobody confirmed it.", remedy) from None
        if typed != study:
            problem, remedy = "was not erased, because you typed a different name.", "Type the name as on the command line."
            raise InputError("the study", problem, remedy)
    done = erase(place, study, reason)
    _print_erasure(done, "were erased")
    if done.rebuild:
        _build_atlas_again(place)


def readmit_command(studies: StudiesArgument, study: _Study) -> None:
    """Allow the server to fetch an erased series from its PACS again."""
    from medsam2_atlas.archive import Place
    from medsam2_atlas.base import file_modes
    from medsam2_atlas.erasing import readmit

    place = Place.existing(studies)
    file_modes.follow(place.work)
    readmit(place, study)
    echo("The server may fetch the series again.")


def _print_erasure(erasure: Erasure, what: str) -> None:
    """Prints the paths of an erasure, their number followed by `what`, and the data that cannot be erased."""
    for path in (*erasure.paths, *erasure.atlas):
        echo(f"  {path}")
    echo(f"{len(erasure.paths)} files and folders {what}, and the study's share in {len(erasure.atlas)} versions of the atlas.")
    for text in erasure.not_erased:
        console.print("not erased:", text, markup=False, soft_wrap=True, style="yellow")


def _build_atlas_again(place: Place) -> None:
    """Rebuilds an atlas that was built from signed-off label maps only, with a new common space."""
    from medsam2_atlas.cli.cases import print_left_out, training_cases
    from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
    from medsam2_atlas.storage import StudyFolder, WorkFolder
    from medsam2_atlas.studies import StudiesGrowthOptions, grow_studies_atlas

    echo("The study was a reference of the atlas. The atlas is rebuilt without it.")
    try:
        rule = HuRule.parse(json.loads((place.work / "atlas" / "stats.json").read_text(encoding="utf-8"))["hu"]["rule"])
    except (OSError, ValueError, KeyError, TypeError):
        rule = CHECK
    skipped: dict[str, str] = {}
    try:
        finals = training_cases(StudyFolder(place.studies), skipped)
        with bars() as progress:
            options = StudiesGrowthOptions(rebuild=True, hu=rule)
            report = grow_studies_atlas(WorkFolder(place.work), None, finals, options, skipped=skipped, progress=progress)
    except MedSAM2AtlasError as error:
        console.print("The atlas was not rebuilt, so there is none now:", error, markup=False, soft_wrap=True, style="yellow")
        print_left_out(skipped)
    else:
        echo(f"atlas {report['version']} of {report['references']} references: {report['folder']}")
