"""`medsam2-atlas viewer …`: fetches and installs the annotator's viewer, and shows which viewer servers use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.base.console import bars, echo
from medsam2_atlas.base.viewer_package import install_viewer, installed_viewer, viewer_package
from medsam2_atlas.cli.outputs import check_folder

app = typer.Typer(help="Fetch and install the annotator's viewer (OHIF), and show which viewer is served.")

_WITHOUT = "Servers use the OHIF of MONAI Label. `medsam2-atlas viewer fetch` installs the annotator's viewer."


@app.callback(invoke_without_command=True)
def show_command(ctx: typer.Context) -> None:
    """Show which viewer servers use. Without a subcommand, nothing is downloaded."""
    if ctx.invoked_subcommand is None:
        folder = installed_viewer()
        pinned = viewer_package()
        echo(f"Servers use {pinned.package} {pinned.version} in {folder}." if folder else _WITHOUT)


@app.command("fetch")
def fetch_command() -> None:
    """Download the annotator's viewer from the npm registry (50 MB), check it and install it.

    An interrupted download resumes. Only this command and `weights fetch` download anything.
    """
    from medsam2_atlas.cli.download import download

    pinned = viewer_package()
    check_folder(pinned.folder.parent)
    pinned.folder.parent.mkdir(parents=True, exist_ok=True)
    archive = pinned.folder.parent / pinned.file
    with bars() as progress:
        download(pinned.url, archive, progress)
        try:
            install_viewer(archive, progress)
        finally:
            archive.unlink(missing_ok=True)
    _installed()


@app.command("install")
def install_command(
    file: Annotated[Path, typer.Argument(help="Archive of the viewer (.tgz), as `npm pack` writes it.")],
) -> None:
    """Install the annotator's viewer from a file, without a network. Only the version in configs/viewer.yaml is accepted."""
    check_folder(viewer_package().folder.parent)
    with bars() as progress:
        install_viewer(file, progress)
    _installed()


def _installed() -> None:
    pinned = viewer_package()
    echo(f"Installed {pinned.package} {pinned.version} in {pinned.folder}.", "Servers use it from the next request on.")
