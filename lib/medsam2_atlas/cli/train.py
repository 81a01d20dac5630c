"""`medsam2-atlas train-demo`: how the demo weights were made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.cli.options import DeviceOption
from medsam2_atlas.console import bars
from medsam2_atlas.device import pick_device
from medsam2_atlas.training import DEMO_MARK, DemoTraining, train_demo


def train_demo_command(
    out: Annotated[Path, typer.Argument(help="Checkpoint to write (.pt).")],
    cache: Annotated[Path, typer.Option(help="Folder for the training phantoms; kept for the next run.")] = Path(
        "demo-training"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = DemoTraining.steps,
    patients: Annotated[int, typer.Option(min=1, help="Phantoms to train on.")] = DemoTraining.patients,
    seed: Annotated[int, typer.Option(help="Population and all random choices.")] = DemoTraining.seed,
    device: DeviceOption = "auto",
) -> None:
    """Train the demo network on phantoms from scratch; goes on where a stopped training left off."""
    options = DemoTraining(seed=seed, patients=patients, steps=steps)
    with bars() as progress:
        train_demo(out, cache, options, pick_device(device), progress)
    typer.echo(f"{out} written. {DEMO_MARK}")
