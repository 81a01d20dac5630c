"""`medsam2-atlas phantoms`: synthetic CTs with label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.base.console import bars, echo
from medsam2_atlas.cli.outputs import check_folder


def phantoms_command(
    out: Annotated[Path, typer.Argument(help="Folder for images/ and labels/.")],
    count: Annotated[int, typer.Option(min=1, help="How many patients.")] = 10,
    seed: Annotated[int, typer.Option(help="The population; the same seed gives the same patients.")] = 0,
    spacing: Annotated[
        float | None,
        typer.Option(min=0.5, max=10, help="Isotropic spacing in mm; by default spacings, tilts and orientations differ."),
    ] = None,
    hu_step: Annotated[int, typer.Option(min=1, help="Round HU to multiples of this; larger steps make smaller files.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Patients rendered at a time.")] = 2,
) -> None:
    """Make synthetic abdominal CTs with label maps of all 15 organs."""
    check_folder(out)
    from medsam2_atlas.demo.phantoms import write_dataset

    with bars() as progress:
        write_dataset(out, count, seed, spacing=spacing, hu_step=hu_step, workers=workers, progress=progress)
    echo(f"{count} patients of population {seed} written to {out}")
