"""Assembles the commands; `endings` handles their errors."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from medsam2_atlas.base.console import echo, set_up_logging
from medsam2_atlas.base.own_user import ensure_name
from medsam2_atlas.cli import (
    atlas,
    batch,
    check,
    cluster,
    compare,
    data,
    demo,
    dicom,
    doctor,
    evaluate,
    labels,
    phantoms,
    practice,
    segment,
    serve,
    studies,
    thresholds,
    tokens,
    train,
    viewer,
    weights,
)
from medsam2_atlas.cli.endings import EPILOG, end, plain_endings
from medsam2_atlas.cli.examples import add_examples, example


class _Commands(TyperGroup):
    """The group of all commands.

    It handles Ctrl+C and closed pipes before typer does, which would use other messages and exit statuses.
    """

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; exits with the status from `endings` if it is interrupted or its output pipe is closed."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            sys.exit(end(error))


app = typer.Typer(
    cls=_Commands,
    help="Pre-annotates 15 abdominal organs on CT. Research use only; not a medical device.",
    epilog=f"{example('')}\n\n{EPILOG}",
    context_settings={"help_option_names": ["--help", "-h"]},
    no_args_is_help=True,
    rich_markup_mode=None,  # its tables leave 17 of 80 columns for the texts
    pretty_exceptions_enable=False,
)
app.add_typer(atlas.app, name="atlas")
app.add_typer(weights.app, name="weights")
app.add_typer(viewer.app, name="viewer")
app.add_typer(labels.app, name="labels")
app.add_typer(studies.app, name="studies")
app.add_typer(data.app, name="data")
app.add_typer(dicom.app, name="dicom")
app.add_typer(tokens.app, name="tokens")
app.add_typer(cluster.app, name="cluster")
app.command("check")(check.check_command)
app.command("thresholds")(thresholds.thresholds_command)
app.command("segment")(segment.segment_command)
app.command("batch")(batch.batch_command)
app.command("propagate")(segment.propagate_command)
app.command("phantoms")(phantoms.phantoms_command)
app.add_typer(train.app, name="train")
app.command("compare")(compare.compare_command)
app.command("evaluate")(evaluate.evaluate_command)
app.command("doctor")(doctor.doctor_command)
app.command("serve")(serve.serve_command)
app.command("demo")(demo.demo_command)
app.command("practice")(practice.practice_command)


@app.command("version")
def version_command() -> None:
    """Print the version."""
    from medsam2_atlas.base.version import package_version

    echo(package_version())


def _version_option(given: bool) -> None:
    if given:
        version_command()
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print log lines and tracebacks.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version_option, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pre-annotates 15 abdominal organs on CT. Research use only; not a medical device."""
    set_up_logging(verbose)


add_examples(app)


def main() -> None:
    """Runs the command line; the entry point of `medsam2-atlas`."""
    # torch reads this when it is imported. By default, waiting OpenMP threads spin and take processor time from other threads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    ensure_name()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error: a name must not stop a command in an old locale
    with plain_endings():
        app()
