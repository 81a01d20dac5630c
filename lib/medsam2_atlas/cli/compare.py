"""`medsam2-atlas compare`: compares two segmenters on a studies folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.base.console import Table, bars, console, echo, show
from medsam2_atlas.base.errors import InputError, listed
from medsam2_atlas.base.file_modes import umask_of_user
from medsam2_atlas.cli.cases import print_left_out
from medsam2_atlas.cli.folders import study_folder
from medsam2_atlas.cli.options import (
    AtlasOption,
    CheckpointOption,
    ConfigOption,
    DeviceOption,
    FolderOption,
    HuOption,
    StrictOption,
    UNetWeightsOption,
    check_segmenter,
    named_folders,
    renamed,
)
from medsam2_atlas.cli.outputs import check_folder
from medsam2_atlas.segmenters.registry import family_of, model_of, preferred, trainable, vocabulary

DEFAULTS = (preferred("prompted"), preferred("trained"))
"""Names of the two segmenters that are compared by default."""
COMPARABLE = ", ".join(name for name in vocabulary() if family_of(name).role != "reference")
"""Names of the segmenters that can be compared, for help texts and error messages."""


def compare_command(
    studies: Annotated[Path, typer.Argument(help="Studies folder: CTs at its top, label maps in labels/TAG/.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write table, plots and page to.")] = Path("comparison"),
    segmenter: Annotated[
        list[str] | None,
        typer.Option(
            "--segmenter",
            help=f"A segmenter to compare; give this option twice. Default: {' and '.join(DEFAULTS)}. Choices: {COMPARABLE}.",
        ),
    ] = None,
    atlas: AtlasOption = None,
    unet_weights: UNetWeightsOption = None,
    folder: FolderOption = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    worst: Annotated[
        int, typer.Option(min=0, help="Number of cases to show as pictures: those on which the segmenters agree least.")
    ] = 5,
    hu: HuOption = "check",
    strict: StrictOption = False,
    device: DeviceOption = "auto",
    strategy: Annotated[str | None, typer.Option("--strategy", hidden=True)] = None,
    unet: Annotated[str | None, typer.Option("--unet", hidden=True)] = None,
) -> None:
    """Compare two segmenters on every study; write a table, plots, and a page with the worst cases."""
    chosen = segmenter or list(DEFAULTS)
    if len(chosen) != 2:
        raise InputError(
            "--segmenter", f"names {len(chosen)} segmenters.", f"Name two: --segmenter {DEFAULTS[0]} --segmenter {DEFAULTS[1]}."
        )
    first, second = DEFAULTS
    chosen = [
        renamed(chosen[0], strategy, "--strategy", "--segmenter", first),
        renamed(chosen[1], unet, "--unet", "--segmenter", second),
    ]
    for name in chosen:
        if family_of(name).role == "reference":
            raise InputError(
                name, "is not a segmenter that can be compared: it reads the ground truth.", f"Choose from: {COMPARABLE}."
            )
        check_segmenter(name)
    if model_of(chosen[0]) == model_of(chosen[1]):
        problem = f"is stored under the same name as {chosen[0]}, so that one result would replace the other."
        raise InputError(chosen[1], problem, "Compare two models.")
    folders = named_folders(folder)
    check_folder(out)
    from medsam2_atlas.imaging.hounsfield import HuRule

    rule = HuRule.parse(hu)
    from medsam2_atlas.comparison import compare_studies, write_comparison
    from medsam2_atlas.imaging.labels import organ_table
    from medsam2_atlas.studies.models import Models

    place = study_folder(studies)
    paths = {"atlas": atlas, "checkpoint": checkpoint, "config": config, **dict.fromkeys(trainable(), unet_weights)}
    conf = {key: str(value) for key, value in paths.items() if value} | {"device": device} | folders
    models = Models(conf, place.work, rule)
    console.print(f"networks run on {models.device}")
    contestants = (models.segmenter(chosen[0]), models.segmenter(chosen[1]))
    for contestant in contestants:
        contestant.check()
    with bars() as progress:
        result = compare_studies(place, contestants, models, progress, strict=strict)
    if not result.cases:
        reasons = listed(result.problems)
        problem = f"has no study that can be compared: {reasons}" if reasons else "contains no CTs."
        raise InputError(studies, problem, "" if reasons else "Name the folder that contains the CTs.")
    with umask_of_user():
        write_comparison(result, place, out, worst=worst)
    names = list(result.models)
    columns = [f"{name}, Dice to final" for name in names]
    table = Table("organ", "agreement (Dice)", *columns, title=f"{len(result.cases)} studies")
    for organ in organ_table().organs:
        cells = [result.agreement(organ.index), *(result.against_final(name, organ.index) for name in names)]
        table.add_row(organ.display, *("" if value is None else f"{value:.3f}" for value in cells))
    table.add_section()
    cells = [result.agreement(), *(result.against_final(name) for name in names)]
    table.add_row("mean", *("" if value is None else f"{value:.3f}" for value in cells))
    table.add_row("s, median", "", *(f"{result.seconds(name):.1f}" for name in names))
    show(table)
    print_left_out(result.problems)
    echo(f"{out / 'index.html'} written")
