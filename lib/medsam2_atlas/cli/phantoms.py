"""`medsam2-atlas phantoms`: writes synthetic CTs with label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.base.console import bars, echo
from medsam2_atlas.cli.outputs import check_folder


def phantoms_command(
    out: Annotated[Path, typer.Argument(help="Folder to write images/ and labels/ to.")],
    count: Annotated[int, typer.Option(min=1, help="Number of patients.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the population; the same seed gives the same patients.")] = 0,
    spacing: Annotated[
        float | None,
        typer.Option(min=0.5, max=10, help="Isotropic spacing in mm. Default: spacing, tilt and orientation vary by patient."),
    ] = None,
    hu_step: Annotated[
        int, typer.Option(min=1, help="Step in HU to which values are rounded; a larger step makes smaller files.")
    ] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Number of patients to render in parallel.")] = 2,
) -> None:
    """Generate synthetic abdominal CTs with label maps of all 15 organs."""
    check_folder(out)
    from medsam2_atlas.demo.phantoms import write_dataset

    with bars() as progress:
        write_dataset(out, count, seed, spacing=spacing, hu_step=hu_step, workers=workers, progress=progress)
    echo(f"{count} {'patient' if count == 1 else 'patients'} of population {seed} written to {out}")
