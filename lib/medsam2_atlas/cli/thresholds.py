"""`medsam2-atlas thresholds`: finds the best threshold of each organ's score map, by leave-one-out over the references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from medsam2_atlas.base.choices import Fusion
from medsam2_atlas.base.console import bars, console, echo
from medsam2_atlas.cli.outputs import check_folder


def thresholds_command(
    atlas: Annotated[Path, typer.Argument(help="Atlas folder.")],
    fusion: Annotated[
        Fusion | None, typer.Option(help="Label fusion that the thresholds are for. Default: as in configs/fusion.yaml.")
    ] = None,
    store: Annotated[bool, typer.Option(help="Store the thresholds with the atlas.")] = True,
) -> None:
    """Find the best threshold of each organ's score map for an atlas, and store the thresholds with it."""
    from medsam2_atlas.atlas import Atlas, resolve_atlas
    from medsam2_atlas.imaging.labels import organ_table
    from medsam2_atlas.scoremaps import find_thresholds, fusion_config, with_thresholds

    folder = resolve_atlas(atlas)
    if store:
        check_folder(folder, replaced=True)
    loaded, config = Atlas.load(folder), fusion_config()
    if fusion is not None:
        config = config.with_method(fusion)
    with bars() as progress:
        found = find_thresholds(loaded, config, progress)
    table = Table(
        "organ", "published", "best here", "box overlap", title=f"{found.references} references, fusion {found.fusion}"
    )
    for k, value in found.values.items():
        organ = organ_table()[k]
        table.add_row(organ.display, f"{organ.published_threshold:.2f}", f"{value:.2f}", f"{found.overlap[k]:.2f}")
    console.print(table)
    if store:
        with_thresholds(loaded, found).save(folder)
        echo(f"stored with {folder}")
