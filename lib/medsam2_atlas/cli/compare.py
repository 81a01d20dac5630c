"""`medsam2-atlas compare`: foundation model and U-Net over a studies folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.table import Table

from medsam2_atlas.base.choices import REFERENCE_STRATEGIES, Strategy
from medsam2_atlas.base.console import bars, console, echo
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.file_modes import umask_of_user
from medsam2_atlas.cli.atlas import base_atlas
from medsam2_atlas.cli.cases import print_left_out
from medsam2_atlas.cli.folders import study_folder
from medsam2_atlas.cli.options import CheckpointOption, ConfigOption, DeviceOption, HuOption, StrictOption
from medsam2_atlas.cli.outputs import check_folder

_STRATEGIES = [name for name in get_args(Strategy) if name not in REFERENCE_STRATEGIES]


def compare_command(
    studies: Annotated[Path, typer.Argument(help="Studies folder: CTs at its top, labels under labels/TAG/.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for table, plots and page.")] = Path("comparison"),
    atlas: Annotated[Path | None, typer.Option("--atlas", help="Folder of the base atlas.")] = None,
    strategy: Annotated[str, typer.Option(help="Of the foundation model; `atlas` runs without a network.")] = "D",
    unet: Annotated[str, typer.Option(help="unet_3d or unet_2d.")] = "unet_3d",
    unet_weights: Annotated[Path | None, typer.Option(help="Weights (.pt); default: the studies' or the demo's.")] = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    worst: Annotated[int, typer.Option(min=0, help="Cases to show as pictures, those that agree least.")] = 5,
    hu: HuOption = "check",
    strict: StrictOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Compare MedSAM2 and U-Net on every study: a table, plots, and a page with the worst cases."""
    if strategy not in _STRATEGIES:
        raise InputError(strategy, "is not a strategy without a true label map.", f"Choose from: {', '.join(_STRATEGIES)}.")
    check_folder(out)
    from medsam2_atlas.imaging.hounsfield import HuRule

    rule = HuRule.parse(hu)
    from medsam2_atlas.atlas import Atlas
    from medsam2_atlas.base.device import pick_device
    from medsam2_atlas.base.memory import Ladder
    from medsam2_atlas.comparison import Contestant, compare_studies, foundation, unet_baseline, write_comparison
    from medsam2_atlas.imaging.labels import organ_table
    from medsam2_atlas.medsam2 import find_checkpoint, load_weights
    from medsam2_atlas.segmenters.places import find_atlas, find_unet
    from medsam2_atlas.studies import grown_atlas
    from medsam2_atlas.unet import load_unet

    folder, ladder = study_folder(studies), Ladder(pick_device(device))
    console.print(f"networks run on {ladder.device}")
    base = base_atlas(atlas)
    used = grown_atlas(folder.work, base) or base or Atlas.load(find_atlas(atlas))
    weights = load_weights(find_checkpoint(checkpoint), config) if strategy != "atlas" else None
    network = load_unet(find_unet(unet, unet_weights, folder.work.path / unet / "best.pt"))
    contestants: tuple[Contestant, Contestant] = (
        foundation(used, weights, strategy, folder.work, ladder, rule),
        unet_baseline(network, unet, ladder, rule),
    )
    with bars() as progress:
        result = compare_studies(folder, contestants, progress, strict=strict)
    if not result.cases:
        told = "; ".join(f"{study}: {problem}" for study, problem in result.problems.items())
        problem = f"has no study that can be compared: {told[:2000]}" if told else "holds no CTs."
        raise InputError(studies, problem, "" if told else "Name the folder that holds the CTs.")
    with umask_of_user():
        write_comparison(result, folder, out, worst=worst)
    names = [contestant.name for contestant in contestants]
    columns = [f"{name}, Dice to final" for name in names]
    table = Table("organ", "agreement (Dice)", *columns, title=f"{len(result.cases)} studies")
    for organ in organ_table().organs:
        cells = [result.agreement(organ.index), *(result.against_final(name, organ.index) for name in names)]
        table.add_row(organ.display, *("" if value is None else f"{value:.3f}" for value in cells))
    table.add_section()
    cells = [result.agreement(), *(result.against_final(name) for name in names)]
    table.add_row("mean", *("" if value is None else f"{value:.3f}" for value in cells))
    table.add_row("s, median", "", *(f"{result.seconds(name):.1f}" for name in names))
    console.print(table)
    print_left_out(result.problems)
    echo(f"{out / 'index.html'} written")
