"""Puts the commands together and turns the project's errors into one line and exit code 1."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.markup import escape

from medsam2_atlas.cli import atlas, compare, demo, dicom, doctor, labels, phantoms, segment, serve, thresholds, train, weights
from medsam2_atlas.console import console, set_up_logging
from medsam2_atlas.errors import MedSAM2AtlasError

app = typer.Typer(
    help="Pre-annotates 15 abdominal organs on CT. Research use only; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(atlas.app, name="atlas")
app.add_typer(weights.app, name="weights")
app.add_typer(labels.app, name="labels")
app.add_typer(dicom.app, name="dicom")
app.command("thresholds")(thresholds.thresholds_command)
app.command("segment")(segment.segment_command)
app.command("propagate")(segment.propagate_command)
app.command("phantoms")(phantoms.phantoms_command)
app.add_typer(train.app, name="train")
app.command("compare")(compare.compare_command)
app.command("doctor")(doctor.doctor_command)
app.command("serve")(serve.serve_command)
app.command("demo")(demo.demo_command)


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show log lines.")] = False,
) -> None:
    """Pre-annotates 15 abdominal organs on CT. Research use only; not a medical device."""
    set_up_logging(verbose)


@app.command("version")
def version_command() -> None:
    """Print the version."""
    from medsam2_atlas.segmentation import package_version

    typer.echo(package_version())


def main() -> None:
    """Entry point of `medsam2-atlas`."""
    # Read when torch is imported: threads that wait would otherwise keep cores from other programs and from each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except MedSAM2AtlasError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
