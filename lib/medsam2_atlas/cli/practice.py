"""`medsam2-atlas practice`: signs off practice cases on a server, in the place of a person."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import python_path, resource
from medsam2_atlas.base.urls import is_url


def practice_command(
    labels: Annotated[Path, typer.Argument(help="Folder of ground-truth label maps, named as the studies.")],
    server: Annotated[str, typer.Option(help="URL of a server without a login.")] = "http://127.0.0.1:8000",
    cases: Annotated[int, typer.Option(min=1, help="Cases to sign off.")] = 10,
    strategy: Annotated[str, typer.Option(help="The server's strategy that chooses the next case.")] = "uncertainty",
    model: Annotated[str, typer.Option(help="The server's model that pre-annotates each case.")] = "medsam2_atlas",
    wait: Annotated[
        float, typer.Option(min=0, help="Max seconds to wait until the server has measured all cases for the strategy.")
    ] = 900.0,
) -> None:
    """Sign off cases on a server with their ground truth, to practise the workflow without correcting by hand."""
    if not labels.is_dir():
        raise InputError(labels, "is not a folder.", "Name the folder of the ground-truth label maps.")
    if not is_url(server):
        raise InputError(server, "is not a URL of a server.", "For example: --server http://127.0.0.1:8000")
    os.environ["PYTHONPATH"] = python_path()
    program = str(resource("apps/practice.py"))
    os.execv(sys.executable, [sys.executable, program, str(labels), server, str(cases), strategy, model, str(wait)])
