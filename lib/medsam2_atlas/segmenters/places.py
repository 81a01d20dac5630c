"""Where atlases and weights are looked for when no one names them."""

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
    """The atlas to use: the folder given, `$MEDSAM2_ATLAS`, or `atlas` in the model folder; of versions the current one.

    Raises:
        AtlasError: there is none; the message says where it was looked for.
    """
    named = os.environ.get(ATLAS_ENVIRONMENT)
    folder = resolve_atlas(given or (Path(named) if named else model_folder() / "atlas"))
    if not (folder / "atlas.json").is_file():
        raise AtlasError(
            folder,
            "is not an atlas.",
            f"Make one: `medsam2-atlas atlas build REFS OUT`; then name it by --atlas or ${ATLAS_ENVIRONMENT}.",
        )
    return folder


def known_checkpoints() -> dict[str, Path]:
    """Returns the MedSAM2 checkpoints that may be chosen by name: those in the model folder, and the demo weights."""
    files = sorted(model_folder().glob("*.pt")) if model_folder().is_dir() else []
    found = {file.name: file for file in files if not file.name.startswith("unet_")}
    with suppress(FileNotFoundError):
        found.setdefault(DEMO_FILE, resource(f"weights/{DEMO_FILE}"))
    return found


def find_unet(name: str, given: Path | None = None, trained: Path | None = None, demo: bool = True) -> Path:
    """Returns the weights of the U-Net `unet_2d` or `unet_3d`.

    Args:
        name: of the U-Net.
        given: wins over everything else, and must exist.
        trained: what the studies' own training would have published.
        demo: whether demo weights will do.

    Raises:
        WeightsError: none found; the message says what to do.
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
