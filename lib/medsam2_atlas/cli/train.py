"""`medsam2-atlas train …`: trains U-Nets on annotated CTs, and the MedSAM2 demo network on phantoms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from medsam2_atlas.base.console import Table, bars, echo, show
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.file_modes import umask_of_user
from medsam2_atlas.cli.cases import annotated_cases, print_left_out
from medsam2_atlas.cli.options import DeviceOption, HuOption, StrictOption
from medsam2_atlas.cli.outputs import WEIGHTS, check_files, check_folder
from medsam2_atlas.demo.training import DEMO_MARK, DemoTraining

app = typer.Typer(help="Train a U-Net, or the demo weights.", no_args_is_help=True)


@app.command("unet")
def unet_command(
    cases: Annotated[Path, typer.Argument(help="Folder with images/ and labels/, or a studies folder with labels/final/.")],
    run: Annotated[Path, typer.Argument(help="Folder of the training run; an interrupted run in it resumes.")],
    config: Annotated[
        str,
        typer.Option(
            help="Configuration of network and training: unet_3d, unet_2d, unet_3d_large, unet_3d_published, "
            "unet_2d_published, or a YAML file."
        ),
    ] = "unet_3d",
    start: Annotated[
        Path | None, typer.Option(help="Weights file (.pt) to start from. Default: randomly initialised weights.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of epochs. Default: as configured.")] = None,
    validation_share: Annotated[
        float | None,
        typer.Option(min=0, max=0.9, help="Share of cases used for validation, 0..0.9. Default: as configured."),
    ] = None,
    validate_every: Annotated[
        int | None, typer.Option(min=1, help="Number of epochs between validations. Default: as configured.")
    ] = None,
    mark: Annotated[str, typer.Option(help="Note about the weights, shown with all their results. Default: none.")] = "",
    half: Annotated[
        Path | None, typer.Option(help="File (.pt) to write the best weights to in half precision. Default: none.")
    ] = None,
    hu: HuOption = "check",
    strict: StrictOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Train a U-Net on annotated CTs; write the best weights to RUN/best.pt."""
    check_files((half, WEIGHTS), inputs=(start,), made=(run,))
    from medsam2_atlas.imaging.hounsfield import HuRule

    rule = HuRule.parse(hu)
    from medsam2_atlas.audit.log import record_command
    from medsam2_atlas.base.device import pick_device
    from medsam2_atlas.storage import WorkFolder
    from medsam2_atlas.unet import TrainingCase, UNetTraining, load_unet, save_unet, unet_config, with_training

    chosen = unet_config(config)
    changes = {"epochs": epochs, "validation_share": validation_share, "validate_every": validate_every}
    chosen = with_training(chosen, {key: value for key, value in changes.items() if value is not None})
    picked = pick_device(device)
    skipped: dict[str, str] | None = None if strict else {}
    found = [TrainingCase(files.name, files.image, files.label, hu=rule) for files in annotated_cases(cases, skipped)]
    first = load_unet(start) if start is not None else None
    if not (cases / "images").is_dir():
        record_command(WorkFolder.of(cases), "train.start", details={"model": Path(config).stem})
    with bars() as progress:
        training = UNetTraining(found, chosen, run, picked, start=first, skipped=skipped, strict=strict, progress=progress)
        training.mark = mark
        if chosen.training.validation_share > 0 and not training.validation_cases:
            print_left_out(training.skipped)
            problem = "has one case that can be used, but validation needs a second one."
            raise InputError(cases, problem, "Add cases, or use --validation-share 0.")
        stats = training.run()
    if stats["validation"]:
        table = Table("organ", "Dice", title=escape(f"validation cases: {', '.join(stats['validation_cases'])}"))
        best = max(stats["validation"], key=lambda entry: entry["mean_dice"])
        for name, value in best["organs"].items():
            table.add_row(name, f"{value:.3f}")
        table.add_row("mean", f"{best['mean_dice']:.3f}")
        show(table)
    print_left_out(stats["skipped"])
    if half is not None:
        best_unet = load_unet(run / "best.pt")
        state = best_unet.network.state_dict()
        with umask_of_user():
            save_unet(
                half, state, best_unet.config, validation=best_unet.validation, cases=best_unet.cases, mark=mark, half=True
            )
    echo(f"{run / 'best.pt'} written after {stats['epoch']} epochs, {stats['seconds']:.0f} s. {mark}")
    energy = stats["energy"]
    if energy["watt_hours"] is not None:
        emitted = "" if energy["co2_grams"] is None else f", {energy['co2_grams']} g CO2e"
        echo(f"Energy{'' if energy['complete'] else ', at least'}: {energy['watt_hours']} Wh{emitted} ({energy['how']}).")


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Argument(help="Checkpoint (.pt) to write.")],
    cache: Annotated[Path, typer.Option(help="Folder for the training phantoms, which later runs reuse.")] = Path(
        "demo-training"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Number of optimiser steps.")] = DemoTraining.steps,
    patients: Annotated[int, typer.Option(min=1, help="Number of phantoms to train on.")] = DemoTraining.patients,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the population and of all random choices.")] = DemoTraining.seed,
    device: DeviceOption = "auto",
) -> None:
    """Train the MedSAM2 demo network on phantoms from scratch. An interrupted training resumes."""
    check_files((out, WEIGHTS))
    check_folder(cache)
    from medsam2_atlas.base.device import pick_device
    from medsam2_atlas.demo.training import train_demo

    options = DemoTraining(seed=seed, patients=patients, steps=steps)
    with bars() as progress:
        train_demo(out, cache, options, pick_device(device), progress)
    echo(f"{out} written. {DEMO_MARK}")
