"""`medsam2-atlas serve`: starts MONAI Label's server with this app."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.base.console import console
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.file_modes import set_umask
from medsam2_atlas.base.files import replacing
from medsam2_atlas.base.own_user import ensure_home, ensure_temp
from medsam2_atlas.base.resource import ADDRESS_VARIABLE, QUIET_VARIABLE, python_path, resource, state_folder
from medsam2_atlas.base.root_path import parse_root_path
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.cli.options import AtlasOption, CheckpointOption, ConfigOption, DeviceOption
from medsam2_atlas.segmenters.registry import FAMILIES, trainable

_KEYS = (
    *("atlas", "checkpoint", "config", "device", "foundation", "baseline", "learning"),
    *(name for unet in trainable() for name in (unet, f"{unet}_config")),
    *("preload", "auth_token"),  # of MONAI Label
)
"""Keys of `--conf`, see `apps/medsam2_atlas/main.py`. The server itself checks those that begin with a prefix."""
_PREFIXES = ("server_", *(family.prefix for family in FAMILIES if family.prefix))
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve_command(
    context: typer.Context,
    studies: Annotated[str, typer.Argument(help="Studies folder, or the DICOMweb URL of a PACS such as Orthanc.")],
    atlas: AtlasOption = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on, such as 0.0.0.0 for all networks. Only 127.0.0.1 works without a login.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port to listen on.")] = 8000,
    device: DeviceOption = "auto",
    tokens: Annotated[
        Path | None,
        typer.Option(help="Token file (YAML) of the people who may log in; see `medsam2-atlas tokens`. Default: no login."),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option("--root", help="Folder outside of STUDIES that symbolic links in STUDIES may lead to. Repeatable."),
    ] = None,
    root_path: Annotated[
        str,
        typer.Option(
            "--root-path",
            help="URL path at which a proxy publishes the server, such as /medsam2 for https://host/medsam2/. Default: none.",
        ),
    ] = "",
    issuer: Annotated[
        str, typer.Option(help="URL of the OpenID Connect issuer whose tokens the server accepts. Default: none.")
    ] = "",
    conf: Annotated[
        list[str] | None,
        typer.Option(help="Setting of the app as KEY=VALUE, such as unet_3d=FILE or learning=false. Repeatable."),
    ] = None,
) -> None:
    """Start the server for browsers and 3D Slicer, and print the address to open.

    In a terminal, the log goes only to its file; `medsam2-atlas --verbose serve …` prints it, too.
    """
    if not is_url(studies) and not Path(studies).is_dir():
        raise InputError(studies, "is neither a folder nor a URL.", "Name a folder of CTs or a DICOMweb URL.")
    command = [sys.executable, "-m", "server.start", "start_server", "--uvicorn_app", "server.application:app"]
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
    has_login = tokens is not None or bool(issuer) or any(setting.startswith(login) for setting in conf or ())
    if host not in _LOOPBACK and not has_login:
        raise InputError(
            host, "can be reached from other machines, and no login is set up.", "Add --tokens FILE or --issuer URL."
        )
    for setting in conf or ():
        key, equals, text = setting.partition("=")
        if not key or not equals:
            raise InputError(setting, "is not KEY=VALUE.", "For example: --conf learning=false")
        if key not in _KEYS and not key.startswith(_PREFIXES):
            choices = ", ".join((*_KEYS, *(f"{prefix}…" for prefix in _PREFIXES)))
            raise InputError(f"--conf {key}", "is not a setting of the app.", f"Choose from: {choices}.")
        command += ["--conf", key, text]
        device = text if key == "device" else device
    if tokens is not None:
        from medsam2_atlas.access.token_entries import read_tokens

        read_tokens(tokens)  # reports a file that the server would refuse, before it loads anything
    from medsam2_atlas.cli.port import check_port

    check_port(host, port)
    if device.startswith("cuda"):
        from medsam2_atlas.base.device import pick_device

        pick_device(device)  # reports a missing GPU in one line, before the server starts
    set_umask(for_group=False)  # makes the server's log private; the server itself handles files for a group
    command += ["--app", str(_app_folder(port))]
    os.environ["PYTHONPATH"] = python_path()
    if device.strip().lower() == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # libraries would initialise CUDA on import, in each work process too
    ensure_home()
    ensure_temp()
    # MONAI Label would otherwise start a scoring process at every start and every next case.
    os.environ.setdefault("MONAI_LABEL_AUTO_UPDATE_SCORING", "false")
    # Otherwise each of the forty handler threads would keep its own arena of freed memory.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    os.environ[ADDRESS_VARIABLE] = " ".join(_addresses(host, port))
    os.environ.pop(QUIET_VARIABLE, None)
    if sys.stderr.isatty() and not context.find_root().params.get("verbose"):
        os.environ[QUIET_VARIABLE] = "1"
        console.print("The server starts …")
    os.execv(sys.executable, command)


def _addresses(host: str, port: int) -> list[str]:
    """Returns the addresses at which people reach the server: this machine's name too, if it listens on all networks.

    >>> _addresses("::1", 8000)
    ['http://[::1]:8000']
    """
    if host in ("", "0.0.0.0", "::"):
        return [f"http://127.0.0.1:{port}", f"http://{socket.gethostname()}:{port}"]
    return [f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"]


def _app_folder(port: int) -> Path:
    """Creates and returns a private folder that MONAI Label uses as app folder, because it writes its logs there.

    The app itself is linked into that folder: an installation may belong to another user.
    """
    folder = state_folder() / f"server-{port}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(folder / "main.py") as part:
            part.symlink_to(resource("apps/medsam2_atlas/main.py"))
    except OSError as error:
        remedy = "Set $MEDSAM2_ATLAS_STATE to another folder."
        raise InputError(folder, f"cannot be used for the server's logs: {error}.", remedy) from error
    return folder


def _root(folder: Path) -> str:
    """Returns the resolved path of a folder given by --root."""
    if not folder.is_dir():
        raise InputError(folder, "is not a folder.", "Name a folder that links in the studies folder lead to.")
    if "," in str(folder.resolve()):
        raise InputError(folder, "has a comma in its path.", "Add it to `roots` in configs/server.yaml instead.")
    return str(folder.resolve())
