"""Finds the default atlas and the default weights."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from medsam2_atlas.atlas import resolve_atlas
from medsam2_atlas.base.errors import AtlasError, WeightsError
from medsam2_atlas.base.resource import model_folder, resource
from medsam2_atlas.medsam2.checkpoint import DEMO_FILE

ATLAS_ENVIRONMENT = "MEDSAM2_ATLAS"


def find_atlas(given: Path | None = None) -> Path:
    """Returns the atlas folder: the given one, `$MEDSAM2_ATLAS`, or `atlas` in the model folder.

    If the folder contains several versions of an atlas, the current version is returned.

    Raises:
        AtlasError: if there is none; the message names the folder that was searched.
    """
    named = os.environ.get(ATLAS_ENVIRONMENT)
    folder = resolve_atlas(given or (Path(named) if named else model_folder() / "atlas"))
    if not (folder / "atlas.json").is_file():
        raise AtlasError(
            folder,
            "is not an atlas.",
            f"Build one: `medsam2-atlas atlas build REFS OUT`; then name it by --atlas or ${ATLAS_ENVIRONMENT}.",
        )
    return folder


def known_checkpoints() -> dict[str, Path]:
    """Returns the available MedSAM2 checkpoints by file name: those in the model folder, and the demo weights."""
    files = sorted(model_folder().glob("*.pt")) if model_folder().is_dir() else []
    found = {file.name: file for file in files if not file.name.startswith("unet_")}
    with suppress(FileNotFoundError):
        found.setdefault(DEMO_FILE, resource(f"weights/{DEMO_FILE}"))
    return found


def find_unet(name: str, given: Path | None = None, trained: Path | None = None, demo: bool = True) -> Path:
    """Returns the weights file of a U-Net.

    Args:
        name: name of the U-Net: `unet_2d` or `unet_3d`.
        given: a file that takes precedence over all others; it must exist.
        trained: the file that the training on the studies publishes; used if it exists.
        demo: whether demo weights may be used.

    Raises:
        WeightsError: if there are no weights; the message contains the remedy.
    """
    if given is not None:
        if not given.is_file():
            raise WeightsError(given, "is not a file.", "Name the weights of a U-Net (.pt).")
        return given
    places = [file for file in (trained, model_folder() / f"{name}.pt") if file is not None]
    if demo:
        with suppress(FileNotFoundError):
            places.append(resource(f"weights/{name}_demo.pt"))
    found = next((file for file in places if file.is_file()), None)
    if found is None:
        raise WeightsError(name, "has no weights yet.", "Train it on signed-off labels, or copy weights into the model folder.")
    return found
