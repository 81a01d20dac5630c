"""`medsam2-atlas demo`: the main job on the sample data."""

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
    out: Annotated[Path, typer.Argument(help="Folder for the label map, a picture and a report.")] = Path("demo-output"),
    device: DeviceOption = "auto",
) -> None:
    """Build an atlas of the sample references, serve a sample CT, and annotate it as a client does; takes some minutes."""
    check_folder(out)
    os.environ["PYTHONPATH"] = python_path()
    os.execv(sys.executable, [sys.executable, str(resource("apps/demo.py")), str(out), device])
