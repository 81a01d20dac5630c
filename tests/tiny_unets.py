"""U-Nets that train in a second, their configuration files, and training cases made of blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from blocks import PATIENT, labelled
from medsam2_atlas.atlas import find_references
from medsam2_atlas.unet import TrainingCase, UNetConfig

_TINY = {"dimensions": 3, "spacing": (8.0, 8.0, 8.0), "patch": (16, 16, 16), "filters": (4, 8, 16), "heads": 1}
_FLAT = {"dimensions": 2, "spacing": (8.0, 8.0, 0.0), "patch": (16, 16)}
_SMALL = {"dimensions": 3, "spacing": [6.0, 6.0, 6.0], "patch": [32, 32, 32], "filters": [8, 16, 32], "heads": 1}


def tiny_unet(dimensions: int = 3, **training: Any) -> UNetConfig:
    """Returns the configuration of a U-Net with 8 mm voxels, for patients made of blocks."""
    flat = _FLAT if dimensions == 2 else {}
    return UNetConfig.model_validate({**_TINY, **flat, "training": training})


def small_unet_file(file: Path, **training: Any) -> Path:
    """Writes the configuration of a U-Net with 6 mm voxels, for synthetic patients."""
    file.write_text(yaml.safe_dump({**_SMALL, "training": training}))
    return file


def block_cases(folder: Path, *names: str) -> list[TrainingCase]:
    """Writes patients made of blocks, and returns all cases of the folder."""
    for name in names:
        labelled(folder, name, PATIENT)
    return [TrainingCase(files.name, files.image, files.label) for files in find_references(folder)]
