"""`medsam2-atlas demo`: segments a sample CT through a real server."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.base.resource import python_path, resource
from medsam2_atlas.cli.options import DeviceOption
from medsam2_atlas.cli.outputs import check_folder


def demo_command(
    out: Annotated[Path, typer.Argument(help="Folder to write label map, picture and report to.")] = Path("demo-output"),
    device: DeviceOption = "auto",
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave a server for the viewer running at the end, until Ctrl+C.")
    ] = False,
) -> None:
    """Segment a sample CT through a real server, as a client would, and compare all strategies. Takes a few minutes."""
    check_folder(out)
    os.environ["PYTHONPATH"] = python_path()
    os.execv(sys.executable, [sys.executable, str(resource("apps/demo.py")), str(out), device, "keep" if keep else ""])
