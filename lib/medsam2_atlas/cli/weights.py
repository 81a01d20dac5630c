"""`medsam2-atlas weights …`: fetch, check and describe checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.base.console import bars, echo
from medsam2_atlas.base.errors import WeightsError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.progress import Progress
from medsam2_atlas.base.resource import model_folder, resource
from medsam2_atlas.cli.options import ConfigOption
from medsam2_atlas.cli.outputs import WEIGHTS, check_files

app = typer.Typer(help="MedSAM2's weights.", no_args_is_help=True)

_BLOCK = 1 << 20


@app.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(help="A checkpoint listed in configs/weights.yaml.")] = "MedSAM2_latest.pt",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: the model folder.")] = None,
) -> None:
    """Download official weights; continues a download that broke off. Nothing is ever downloaded but by this command."""
    import yaml

    listed: dict[str, str] = yaml.safe_load(resource("configs/weights.yaml").read_text(encoding="utf-8"))["checkpoints"]
    if name not in listed:
        raise WeightsError(name, "is not listed in configs/weights.yaml.", f"Choose from: {', '.join(listed)}.")
    target = out or model_folder() / name
    check_files((target, WEIGHTS), made=(target.parent,))
    target.parent.mkdir(parents=True, exist_ok=True)
    with bars() as progress:
        download(listed[name], target, progress)
    echo(f"{target}", f"SHA-256 {sha256(target)}")
    check_command(target)


@app.command("check")
def check_command(file: Annotated[Path, typer.Argument(help="A checkpoint (.pt).")], config: ConfigOption = None) -> None:
    """Verify that a checkpoint fits the network, tensor by tensor, and print its checksum."""
    from medsam2_atlas.medsam2 import load_weights

    weights = load_weights(file, config)
    count = sum(tensor.numel() for tensor in weights.network.state_dict().values())
    echo(f"{file}: fits, {len(weights.network.state_dict())} tensors, {count} values", f"SHA-256 {weights.sha256}")
    if weights.mark:
        echo(weights.mark)


@app.command("shapes")
def shapes_command(config: ConfigOption = None) -> None:
    """Print names and shapes of the network's tensors as JSON; the official network by default."""
    from medsam2_atlas.medsam2 import OFFICIAL, load_config, parameter_shapes

    typer.echo(json.dumps(parameter_shapes(load_config(config or OFFICIAL)), indent=1))


def download(url: str, target: Path, progress: Progress) -> None:
    """Downloads to `target`, going on where an earlier attempt left `target`.partial; replaces the target at the end.

    Raises:
        WeightsError: the server cannot be reached or answers with an error; what came so far is kept.
    """
    import urllib.error
    import urllib.request
    from http import HTTPStatus

    partial = target.with_name(target.name + ".partial")
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            if have and answer.status != HTTPStatus.PARTIAL_CONTENT:
                have = 0  # the server sends the whole file
            total = have + int(answer.headers.get("Content-Length", 0))
            with partial.open("ab" if have else "wb") as stream:
                while block := answer.read(_BLOCK):
                    stream.write(block)
                    progress("download", min(1.0, stream.tell() / total) if total else 0.0)
            if total and partial.stat().st_size != total:
                raise WeightsError(url, "broke off.", "Run the same command again: it goes on from there.")
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            pass  # all of it is here already
        else:
            raise WeightsError(url, f"cannot be downloaded ({error}).", "Check configs/weights.yaml.") from error
    except (OSError, ValueError) as error:
        raise WeightsError(
            url, f"cannot be downloaded ({error}).", "Check the network, or copy the file by hand and run `weights check`."
        ) from error
    shutil.move(partial, target)
