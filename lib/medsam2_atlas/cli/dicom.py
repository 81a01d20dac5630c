"""`medsam2-atlas dicom …`: writes label maps as DICOM objects that refer to the series they were drawn on."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from medsam2_atlas.base.choices import Made
from medsam2_atlas.base.console import echo
from medsam2_atlas.base.files import replacing
from medsam2_atlas.cli.outputs import DICOM, check_files

app = typer.Typer(help="Write label maps as DICOM objects.", no_args_is_help=True)

_Label = Annotated[Path, typer.Argument(help="Label map on the grid of the series.")]
_Series = Annotated[Path, typer.Argument(help="DICOM series: its folder, or one of its files.")]
_Out = Annotated[Path, typer.Argument(help="DICOM file to write.")]
_Version = Annotated[
    int, typer.Option(min=1, help="Version of the label map, written as Instance Number. All versions belong to one series.")
]
_Made = Annotated[Made, typer.Option(help="How the label map was made (DICOM's Segment Algorithm Type).")]


@app.command("seg")
def seg_command(label: _Label, series: _Series, out: _Out, version: _Version = 1, made: _Made = "SEMIAUTOMATIC") -> None:
    """Write a label map as a DICOM segmentation (SEG)."""
    check_files((out, DICOM), inputs=(label,))
    from medsam2_atlas.dicom import write_seg

    _write(write_seg, label, series, out, version, made)


@app.command("rtstruct")
def rtstruct_command(label: _Label, series: _Series, out: _Out, version: _Version = 1, made: _Made = "SEMIAUTOMATIC") -> None:
    """Write a label map as an RT structure set (RTSTRUCT)."""
    check_files((out, DICOM), inputs=(label,))
    from medsam2_atlas.dicom import write_rtstruct

    _write(write_rtstruct, label, series, out, version, made)


def _write(write: Callable[..., Any], label: Path, series: Path, out: Path, version: int, made: Made) -> None:
    from medsam2_atlas.dicom import LabelOrigin, labels_of_series

    ds = write(labels_of_series(label, series), series, LabelOrigin("final", version, _author(), made))
    with replacing(out) as part:
        ds.save_as(part, enforce_file_format=True)
    echo(f"written to {out}")


def _author() -> str:
    """Returns the name of the user who runs the command; empty if the user has no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
