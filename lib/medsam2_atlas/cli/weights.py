"""`medsam2-atlas weights …`: fetches, checks and describes checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medsam2_atlas.base.console import bars, echo
from medsam2_atlas.base.errors import WeightsError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.resource import model_folder, resource
from medsam2_atlas.cli.download import download
from medsam2_atlas.cli.options import ConfigOption
from medsam2_atlas.cli.outputs import WEIGHTS, check_files

if TYPE_CHECKING:
    from medsam2_atlas.medsam2 import Weights

app = typer.Typer(help="Download and check MedSAM2's weights.", no_args_is_help=True)


@app.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(help="Name of a checkpoint listed in configs/weights.yaml.")] = "MedSAM2_latest.pt",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File (.pt) to write. Default: NAME in the model folder.")
    ] = None,
) -> None:
    """Download official weights. An interrupted download resumes.

    Only this command and `viewer fetch` download anything.
    """
    import yaml

    listed: dict[str, str] = yaml.safe_load(resource("configs/weights.yaml").read_text(encoding="utf-8"))["checkpoints"]
    if name not in listed:
        raise WeightsError(name, "is not listed in configs/weights.yaml.", f"Choose from: {', '.join(listed)}.")
    target = out or model_folder() / name
    check_files((target, WEIGHTS), made=(target.parent,))
    target.parent.mkdir(parents=True, exist_ok=True)
    with bars() as progress:
        download(listed[name], target, progress)
    echo(f"{target}", f"SHA-256 {sha256(target)}", _note(target, name))
    _fit(target, None)


@app.command("check")
def check_command(file: Annotated[Path, typer.Argument(help="Checkpoint (.pt).")], config: ConfigOption = None) -> None:
    """Check that each tensor of a checkpoint fits the network, and whether its size and SHA-256 are the known ones."""
    weights = _fit(file, config)
    echo(f"SHA-256 {weights.sha256}", _note(file, file.name))


def _fit(file: Path, config: str | None) -> Weights:
    """Loads a checkpoint, and prints its size and its mark.

    Raises:
        WeightsError: the file is not a checkpoint, or it belongs to another network.
    """
    from medsam2_atlas.medsam2 import load_weights

    weights = load_weights(file, config)
    count = sum(tensor.numel() for tensor in weights.network.state_dict().values())
    echo(f"{file}: fits the network, {len(weights.network.state_dict())} tensors, {count} values")
    if weights.mark:
        echo(weights.mark)
    return weights


def _note(file: Path, name: str) -> str:
    """Returns whether a checkpoint is the known one of that name."""
    from medsam2_atlas.medsam2.known_checkpoints import known_checkpoints

    return known_checkpoints().note(name, file.stat().st_size, sha256(file))


@app.command("shapes")
def shapes_command(config: ConfigOption = None) -> None:
    """Print the names and shapes of a network's tensors as JSON. Default: the official network."""
    from medsam2_atlas.medsam2 import OFFICIAL, load_config, parameter_shapes

    typer.echo(json.dumps(parameter_shapes(load_config(config or OFFICIAL)), indent=1))
