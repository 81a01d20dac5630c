"""Command-line options shared by several commands, and checks of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.base.choices import PROMPTS, Mode, RegistrationMethod, device_name
from medsam2_atlas.base.console import console
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.segmenters.registry import FAMILIES, family_of, vocabulary

CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="MedSAM2 weights file (.pt). Default: $MEDSAM2_CHECKPOINT, else the model folder, else the demo weights.",
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        help="MedSAM2 network configuration: a name in configs/medsam2, or a YAML file. Default: the one that the weights file "
        "names, else the official one.",
    ),
]
HuOption = Annotated[
    str,
    typer.Option(
        "--hu",
        help="Conversion of the CT's values to HU: `check` refuses values that are not HU, `auto` also corrects a known "
        "offset, a number is added to the values, `as-is` uses them unchecked.",
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Stop at the first case that cannot be used. Default: skip such cases and list them.")
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        callback=device_name,
        help="Device for the networks: cpu, cuda, cuda:N, or auto (the first GPU that works, else the CPU).",
    ),
]
ModeOption = Annotated[
    Mode,
    typer.Option(
        "--mode",
        help="How MedSAM2 computes: as the official predictor (exact), or with approximations that save time (fast); see "
        "docs/method.md.",
    ),
]
RegistrationOption = Annotated[
    RegistrationMethod | None,
    typer.Option(
        "--registration",
        help="Registration: of keypoints, as published (keypoints), of dense descriptors (dense), or dense from the result of "
        "the keypoints (both). Default: as in configs/registration.yaml.",
    ),
]
FAST_NOTE = "The masks differ from those of the official predictor; see docs/method.md."
"""What a user of the fast mode must know."""

AtlasOption = Annotated[
    Path | None,
    typer.Option("--atlas", help="Atlas folder. Default: $MEDSAM2_ATLAS, else `atlas` in the model folder."),
]

SEGMENTERS = ", ".join(vocabulary())
"""Names of the segmenters that users can choose, for help texts and error messages."""
CHOICES = f"Choices: {SEGMENTERS}."
NAMED = " or ".join(f"{family.prefix}NAME" for family in FAMILIES if family.prefix)
"""Placeholder names of the segmenters that are loaded from a folder, for help texts and error messages."""
FolderOption = Annotated[
    list[str] | None,
    typer.Option("--folder", help=f"Folder of a trained model, as {NAMED}=FOLDER. Its code is run. Repeatable."),
]
UNetWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--unet-weights", help="U-Net weights file (.pt). Default: the U-Net trained on the studies, else the demo weights."
    ),
]

StudiesArgument = Annotated[
    str, typer.Argument(help="Studies folder, or the DICOMweb URL that the server on this machine was started with.")
]


def renamed(new: str, old: str | None, option: str, instead: str, default: str | None = None) -> str:
    """Returns the value of a renamed option. If the old name was used, warns that the next release will not accept it.

    Args:
        new: value under the new name.
        old: value under the old name; None if the old name was not used.
        option: old name of the option, such as `--strategy`.
        instead: new name of the option.
        default: value of `new` if the user did not set it; with None, `old` overrides `new` without an error.

    Raises:
        InputError: both names were used, with different values.
    """
    if old is None:
        return new
    if default is not None and new not in (default, old):
        raise InputError(option, f"is {old}, but {instead} is {new}.", f"Use {instead} alone.")
    console.print(f"[yellow]{option} is now {instead}[/]; the next release will not accept the old name.", soft_wrap=True)
    return old


def check_segmenter(name: str, truth: bool = False) -> str:
    """Returns `name` if it is a segmenter that segments a whole CT without a person's input.

    Args:
        name: name of the segmenter, as in the registry.
        truth: whether a ground-truth label map is given; the reference strategies need one, no other segmenter takes one.

    Raises:
        InputError: no segmenter has that name, the segmenter needs a person's marks, or the ground truth is missing or unused.
    """
    role = family_of(name).role
    if role == "interactive":
        raise InputError(name, "needs a person's marks.", f"Choose from: {SEGMENTERS}.")
    if truth != (role == "reference"):
        raise InputError(
            "--truth",
            "is required for the segmenters reference-1 and reference-3, and not accepted for other segmenters.",
            "Add it or omit it.",
        )
    return name


def check_prompts(source: str) -> None:
    """Checks the source of the first boxes (`--prompts`), before anything is loaded.

    Raises:
        InputError: the source is neither one of `PROMPTS` nor a trained segmenter.
    """
    try:
        known = source in PROMPTS or family_of(source).role == "trained"
    except InputError:
        known = False
    if not known:
        problem, remedy = "is not a source of prompts.", "Choose atlas, unet, both or the name of a trained segmenter."
        raise InputError(f"--prompts {source}", problem, remedy)


def choose_registration(method: RegistrationMethod | None) -> None:
    """Makes the command register by a method; None leaves the configured one. A command calls this before it reads settings."""
    if method is not None:
        from medsam2_atlas.base.overlay import choose_settings

        choose_settings("registration.yaml", {"method": method})


def print_mode(mode: Mode) -> None:
    """Prints a note if MedSAM2 runs in the fast mode, because its masks are not those of the official predictor."""
    if mode == "fast":
        console.print(f"[yellow]mode:[/] fast. {FAST_NOTE}", soft_wrap=True)


def named_folders(given: list[str] | None) -> dict[str, str]:
    """Returns the folders given by `--folder NAME=FOLDER`, by segmenter name.

    Raises:
        InputError: a text is not NAME=FOLDER, NAME is not a segmenter that is loaded from a folder, or NAME has two folders.

    Example:
        >>> named_folders(["bundle:spleen=/models/spleen"])
        {'bundle:spleen': '/models/spleen'}
    """
    found: dict[str, str] = {}
    for text in given or []:
        name, _, folder = text.partition("=")
        if not folder or not family_of(name).prefix:
            raise InputError(repr(text), "does not name a segmenter and its folder.", f"Write {NAMED}=FOLDER.")
        if found.get(name, folder) != folder:
            raise InputError(name, f"has two folders, {found[name]} and {folder}.", "Give each folder its own name.")
        found[name] = folder
    return found
