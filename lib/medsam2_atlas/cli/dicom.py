"""`medsam2-atlas dicom …`: writes label maps as DICOM objects of the series they were drawn on; sends DICOM files."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from medsam2_atlas.base.choices import Made
from medsam2_atlas.base.console import bars, console, echo
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import replacing
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.cli.outputs import DICOM, check_files

app = typer.Typer(help="Write label maps as DICOM objects, and send DICOM files to a PACS.", no_args_is_help=True)

_SHOWN = 20
"""Max number of printed problems."""
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
    check_files((out, DICOM), inputs=(label, series))
    from medsam2_atlas.dicom import write_seg

    _write(write_seg, label, series, out, version, made)


@app.command("rtstruct")
def rtstruct_command(label: _Label, series: _Series, out: _Out, version: _Version = 1, made: _Made = "SEMIAUTOMATIC") -> None:
    """Write a label map as an RT structure set (RTSTRUCT)."""
    check_files((out, DICOM), inputs=(label, series))
    from medsam2_atlas.dicom import write_rtstruct

    _write(write_rtstruct, label, series, out, version, made)


@app.command("send")
def send_command(
    source: Annotated[Path, typer.Argument(help="Folder of DICOM files (with its subfolders), a DICOM file or a ZIP archive.")],
    url: Annotated[str, typer.Argument(help="DICOMweb URL of the PACS, such as http://127.0.0.1:8042/dicom-web of Orthanc.")],
) -> None:
    """Send DICOM files to a PACS. An interrupted run can be repeated: the PACS keeps or replaces the instances that it has.

    If the PACS needs a login: $MONAI_LABEL_DICOMWEB_USERNAME and $MONAI_LABEL_DICOMWEB_PASSWORD, as for `serve`. The exit
    status is 1 if an instance was not sent.
    """
    if not is_url(url):
        raise InputError(url, "is not a URL.", "Name a DICOMweb URL, such as http://127.0.0.1:8042/dicom-web")
    import requests

    from medsam2_atlas.dicom.sending import send, unpacked
    from medsam2_atlas.dicom.web import DicomWeb

    session = requests.Session()
    name, password = (os.environ.get(f"MONAI_LABEL_DICOMWEB_{key}", "") for key in ("USERNAME", "PASSWORD"))
    session.auth = (name, password) if name else None
    server = DicomWeb(url, session=session)
    server.list_series({"limit": 1})  # checks address and login before the first file is sent
    with unpacked(source) as files, bars() as progress:
        sent = send(files, server, progress)
    if not sent.count and not sent.problems:
        raise InputError(source, "contains no DICOM instances.", "Name a folder of DICOM files, a DICOM file or a ZIP archive.")
    for file, problem in [*sent.problems.items()][:_SHOWN]:
        console.print(f"{file}: {problem}", markup=False, soft_wrap=True, style="yellow")
    echo(f"sent to {url}: {sent.count} instances; not sent: {len(sent.problems)} instances, {sent.others} files of other kinds")
    if sent.problems:
        raise typer.Exit(1)


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
