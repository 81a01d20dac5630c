"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.base.choices import device_name

CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", help="MedSAM2 weights (.pt). Default: $MEDSAM2_CHECKPOINT, the model folder, the demo weights."
    ),
]
ConfigOption = Annotated[
    str | None, typer.Option("--config", help="Network configuration: a name in configs/medsam2 or a YAML file.")
]
HuOption = Annotated[
    str,
    typer.Option(
        "--hu", help="The CT's values: `check` that they are HU, correct a known offset (`auto`), add a number, or `as-is`."
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Stop at the first case that cannot be used; by default it is left out, and listed.")
]
DeviceOption = Annotated[
    str,
    typer.Option("--device", callback=device_name, help="cpu, cuda, cuda:N, or auto: the first card that networks can run on."),
]

StudiesArgument = Annotated[
    str, typer.Argument(help="Studies folder, or the DICOMweb URL that this machine's server was started with.")
]
