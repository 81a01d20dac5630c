"""Where atlases and weights are looked for when no one names them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from medsam2_atlas.errors import AtlasError
from medsam2_atlas.medsam2 import model_folder
from medsam2_atlas.medsam2.checkpoint import DEMO_FILE
from medsam2_atlas.resource import resource

ATLAS_ENVIRONMENT = "MEDSAM2_ATLAS"


def find_atlas(given: Path | None = None) -> Path:
    """The atlas to use: the folder given, `$MEDSAM2_ATLAS`, or `atlas` in the model folder.

    Raises:
        AtlasError: there is none; the message says where it was looked for.
    """
    named = os.environ.get(ATLAS_ENVIRONMENT)
    folder = given or (Path(named) if named else model_folder() / "atlas")
    if not (folder / "atlas.json").is_file():
        raise AtlasError(
            folder,
            "is no atlas.",
            f"Make one: `medsam2-atlas atlas build REFS OUT`; then name it by --atlas or ${ATLAS_ENVIRONMENT}.",
        )
    return folder


def known_checkpoints() -> dict[str, Path]:
    """Checkpoints that may be chosen by name: those in the model folder, and the demo weights."""
    found = {file.name: file for file in sorted(model_folder().glob("*.pt"))} if model_folder().is_dir() else {}
    with suppress(FileNotFoundError):
        found.setdefault(DEMO_FILE, resource(f"weights/{DEMO_FILE}"))
    return found
