"""`medsam2-atlas serve`: MONAI Label's server with this app."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.file_modes import set_umask
from medsam2_atlas.base.files import replacing
from medsam2_atlas.base.own_user import ensure_home, ensure_temp
from medsam2_atlas.base.resource import python_path, resource, state_folder
from medsam2_atlas.base.root_path import parse_root_path
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.cli.options import CheckpointOption, ConfigOption, DeviceOption

_HERE = ("127.0.0.1", "::1", "localhost")


def serve_command(
    studies: Annotated[str, typer.Argument(help="Folder of CTs, or the DICOMweb URL of a PACS such as Orthanc.")],
    atlas: Annotated[Path | None, typer.Option("--atlas", help="Folder of the atlas.")] = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but 127.0.0.1 needs a login.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    device: DeviceOption = "auto",
    tokens: Annotated[Path | None, typer.Option(help="File of people's tokens (YAML): name, role, token or sha256.")] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option("--root", help="Folder outside of STUDIES that symbolic links in it may lead to; may be repeated."),
    ] = None,
    root_path: Annotated[
        str, typer.Option("--root-path", help="Path below which a proxy shows the server: /medsam2 for https://host/medsam2/.")
    ] = "",
    issuer: Annotated[str, typer.Option(help="OpenID Connect issuer whose tokens let people in.")] = "",
    conf: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE for the app, such as unet_3d=FILE or learning=false; may be repeated."),
    ] = None,
) -> None:
    """Serve the app to OHIF and 3D Slicer."""
    if not is_url(studies) and not Path(studies).is_dir():
        raise InputError(studies, "is neither a folder nor a URL.", "Name a folder of CTs or a DICOMweb URL.")
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--uvicorn_app", "server.application:app"]
    command += ["--studies", studies, "--host", host, "--port", str(port), "--conf", "device", device]
    for key, value in (("atlas", atlas), ("checkpoint", checkpoint), ("server_tokens", tokens)):
        if value is not None:
            command += ["--conf", key, str(value.resolve())]
    if config is not None:
        command += ["--conf", "config", config]
    if root:
        command += ["--conf", "server_roots", ",".join(_root(folder) for folder in root)]
    if root_path:
        command += ["--conf", "server_root_path", parse_root_path(root_path)]
    if issuer:
        command += ["--conf", "server_oidc_issuer", issuer]
    login = ("server_tokens=", "server_oidc_issuer=")
    asks = tokens is not None or bool(issuer) or any(setting.startswith(login) for setting in conf or ())
    if host not in _HERE and not asks:
        raise InputError(
            host, "can be reached by others, and nobody would have to log in.", "Add --tokens FILE or --issuer URL."
        )
    for setting in conf or ():
        key, equals, text = setting.partition("=")
        if not key or not equals:
            raise InputError(setting, "is not KEY=VALUE.", "For example: --conf learning=false")
        command += ["--conf", key, text]
        device = text if key == "device" else device
    from medsam2_atlas.cli.port import check_port

    check_port(host, port)
    if device.startswith("cuda"):
        from medsam2_atlas.base.device import pick_device

        pick_device(device)  # so that a missing card is reported in one line
    set_umask(for_group=False)  # of the server's log, too; the server opens other files to a group if it is told to
    command += ["--app", str(_app_folder(port))]
    os.environ["PYTHONPATH"] = python_path()
    if device.strip().lower() == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # libraries would begin CUDA unasked, in each work process too
    ensure_home()
    ensure_temp()
    # MONAI Label would otherwise start a scoring process at every start and every next case.
    os.environ.setdefault("MONAI_LABEL_AUTO_UPDATE_SCORING", "false")
    # Each of the forty threads that answer would keep an arena of freed memory for itself.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    os.execv(sys.executable, command)


def _app_folder(port: int) -> Path:
    """The folder that MONAI Label takes for the app: it writes logs there, and an installation may be another user's."""
    folder = state_folder() / f"server-{port}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(folder / "main.py") as part:
            part.symlink_to(resource("apps/medsam2_atlas/main.py"))
    except OSError as error:
        raise InputError(folder, f"cannot hold the server's logs: {error}.", "Name another by $MEDSAM2_ATLAS_STATE.") from error
    return folder


def _root(folder: Path) -> str:
    if not folder.is_dir():
        raise InputError(folder, "is not a folder.", "Name a folder that links in the studies folder lead to.")
    if "," in str(folder.resolve()):
        raise InputError(folder, "has a comma in its path.", "Name it in configs/server.yaml (roots).")
    return str(folder.resolve())
