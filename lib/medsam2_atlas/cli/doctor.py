"""`medsam2-atlas doctor`: what is here, what is missing, and how to get it."""

from __future__ import annotations

import platform
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape
from rich.table import Table

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.cli.options import CheckpointOption, ConfigOption
from medsam2_atlas.console import console
from medsam2_atlas.errors import MedSAM2AtlasError
from medsam2_atlas.medsam2 import find_checkpoint, load_weights
from medsam2_atlas.places import find_atlas, find_unet
from medsam2_atlas.segmentation import package_version
from medsam2_atlas.unet import load_unet

_PACKAGES = ("torch", "monai", "monailabel", "sam2", "SimpleITK", "numpy", "pydicom")


def doctor_command(
    atlas: Annotated[Path | None, typer.Option("--atlas", help="Folder of the atlas.")] = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    dicomweb: Annotated[str, typer.Option(help="DICOMweb URL to try.")] = "http://127.0.0.1:8042/dicom-web",
) -> None:
    """Print versions, device, weights, atlas and DICOMweb server, each with a remedy where something is missing."""
    table = Table("what", "state", "remedy")
    ok = True

    def row(what: str, state: str, remedy: str = "", good: bool = True) -> None:
        nonlocal ok
        ok = ok and good
        table.add_row(what, f"[{'green' if good else 'red'}]{escape(state)}[/]", escape(remedy))

    row("medsam2-atlas", package_version())
    row("Python", platform.python_version(), good=True)
    for name in _PACKAGES:
        try:
            row(name, version(name))
        except PackageNotFoundError:
            row(name, "not installed", "make install", good=False)
    if torch.cuda.is_available():
        row("device", f"cuda: {torch.cuda.get_device_name(0)}")
    else:
        row("device", f"cpu, {torch.get_num_threads()} threads", "A CUDA build of torch and a GPU make MedSAM2 far faster.")
    try:
        weights = load_weights(find_checkpoint(checkpoint), config)
        row(
            "weights", f"{weights.file} (SHA-256 {weights.sha256[:12]}…)", "medsam2-atlas weights fetch" if weights.mark else ""
        )
        if weights.mark:
            row("", weights.mark)
    except MedSAM2AtlasError as error:
        row("weights", f"{error.subject}: {error.problem}", error.remedy, good=False)
    try:
        unet = load_unet(find_unet("unet_3d"))
        row("U-Net", f"{unet.file} (SHA-256 {unet.sha256[:12]}…)", "medsam2-atlas train unet" if unet.mark else "")
        if unet.mark:
            row("", unet.mark)
    except MedSAM2AtlasError as error:
        row("U-Net", f"{error.subject}: {error.problem}", error.remedy, good=False)
    try:
        loaded = Atlas.load(find_atlas(atlas))
        row("atlas", f"{loaded.source}: version {loaded.version}, {len(loaded.references)} references")
    except MedSAM2AtlasError as error:
        row("atlas", f"{error.subject}: {error.problem}", error.remedy, good=False)
    reachable, state = _try_dicomweb(dicomweb)
    row(
        "DICOMweb", f"{dicomweb}: {state}", "" if reachable else "Needed for OHIF only: start Orthanc with its DICOMweb plugin."
    )
    console.print(table)
    if not ok:
        raise typer.Exit(1)


def _try_dicomweb(url: str) -> tuple[bool, str]:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/studies?limit=1", timeout=3) as answer:
            return True, f"answers ({answer.status})"
    except (urllib.error.URLError, OSError, ValueError) as error:
        return False, f"not reachable ({getattr(error, 'reason', error)})"
