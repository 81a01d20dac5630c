"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.base.choices import device_name
from medsam2_atlas.base.console import console
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.segmenters.registry import FAMILIES, family_of, vocabulary

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

SEGMENTERS = ", ".join(vocabulary())
NAMED = " or ".join(f"{family.prefix}NAME" for family in FAMILIES if family.prefix)
"""Segmenters of folders, for help and errors."""
FolderOption = Annotated[
    list[str] | None,
    typer.Option("--folder", help=f"{NAMED}=FOLDER, whose code is run. May be repeated."),
]
UNetWeightsOption = Annotated[
    Path | None, typer.Option("--unet-weights", help="Weights (.pt) of the U-Net; default: the studies' or the demo's.")
]

StudiesArgument = Annotated[
    str, typer.Argument(help="Studies folder, or the DICOMweb URL that this machine's server was started with.")
]


def renamed(new: str, old: str | None, option: str, instead: str, default: str | None = None) -> str:
    """Returns the value of an option that has a former name, which is read for one release, with a warning.

    Args:
        new: value of the option.
        old: value of the former option; None if it was not used.
        option: former name.
        instead: its name today.
        default: value of the option if it is not used; None if the former name always wins.

    Raises:
        InputError: both were used, with different values.
    """
    if old is None:
        return new
    if default is not None and new not in (default, old):
        raise InputError(option, f"says {old}, and {instead} says {new}.", f"Use {instead} alone.")
    console.print(f"[yellow]{option} is now {instead}[/] and will not be read by the next release.", soft_wrap=True)
    return old


def check_segmenter(name: str, truth: bool = False) -> str:
    """Returns the name of a segmenter that segments a whole CT by itself.

    Args:
        name: in the registry.
        truth: whether the true label map is given, as reference strategies need it.

    Raises:
        InputError: no such segmenter, one that needs a person's marks, or a truth that is missing or not needed.
    """
    role = family_of(name).role
    if role == "interactive":
        raise InputError(name, "needs a person's marks.", f"Choose from: {SEGMENTERS}.")
    if truth != (role == "reference"):
        raise InputError("--truth", "goes with the segmenters reference-1 and reference-3, and only with them.")
    return name


def named_folders(given: list[str] | None) -> dict[str, str]:
    """Returns folders of segmenters by name.

    Raises:
        InputError: not NAME=FOLDER, no name of such a segmenter, or two folders of one name.
    """
    found: dict[str, str] = {}
    for text in given or []:
        name, _, folder = text.partition("=")
        if not folder or not family_of(name).prefix:
            raise InputError(repr(text), "names no folder of a segmenter.", f"Write {NAMED}=FOLDER.")
        if found.get(name, folder) != folder:
            raise InputError(name, f"has two folders, {found[name]} and {folder}.", "Give each folder a name of its own.")
        found[name] = folder
    return found
