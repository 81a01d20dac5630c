"""Patients made of blocks, which are registered and averaged in a second, for tests of atlases and references."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medsam2_atlas.atlas import Reference
from medsam2_atlas.registration import Transform, registration_config

QUICK = registration_config().model_copy(update={"spacing": 8.0})
FEW_STEPS = registration_config().model_copy(update={"adam_steps": 20, "affine_steps": (30, 15)})
"""Settings that build an atlas of whole bodies in half the time."""
COARSE = registration_config().model_copy(update={"spacing": 6.0, "adam_steps": 30})
"""Settings that register a target in half the time."""


Block = tuple[slice, slice, slice]
LIVER, BLADDER = (slice(18, 26), slice(8, 16), slice(6, 14)), (slice(2, 7), slice(8, 14), slice(17, 24))
RIGHT_KIDNEY, LEFT_KIDNEY = (slice(9, 15), slice(17, 22), slice(8, 13)), (slice(9, 15), slice(17, 22), slice(27, 32))
PATIENT = {2: RIGHT_KIDNEY, 3: LEFT_KIDNEY, 6: LIVER, 14: BLADDER}


def labelled(folder: Path, name: str, organs: dict[int, Block], z_from: int = 0, seen: dict[int, Block] | None = None) -> None:
    """Writes the CT and the label map of a body with bright blocks.

    Args:
        folder: the folder; its subfolders `images` and `labels` get the files.
        name: name of the files, without their suffix.
        organs: the block of each organ in the label map, by organ number.
        z_from: index of the first slice that is written.
        seen: the blocks in the CT, if they differ from `organs`.
    """
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    hu, labels = np.full((30, 30, 40), -1000, np.int16), np.zeros((30, 30, 40), np.uint8)
    hu[:, 4:26, 4:36] = 40
    hu[:, 18:24, 17:23] = 500
    for box in (organs if seen is None else seen).values():
        hu[box] = 120
    for k, box in organs.items():
        labels[box] = k
    for kind, array in (("images", hu), ("labels", labels)):
        image = sitk.GetImageFromArray(array[z_from:])
        image.SetSpacing((6.0, 6.0, 6.0))
        image.SetOrigin((0.0, 0.0, 6.0 * z_from))
        sitk.WriteImage(image, str(folder / kind / f"{name}.nii.gz"))


def bare_reference(name: str) -> Reference:
    """Returns a reference without any organ's share."""
    return Reference(name, "0", (6,), Transform(), {}, np.zeros(0, np.uint8), *[np.zeros((1, 1, 1), np.int16)] * 2)


def made_studies(folder: Path) -> Path:
    """Writes a folder of studies with one signed-off patient made of blocks, `a`, and returns the folder."""
    labelled(folder / "made", "a", PATIENT)
    (folder / "studies" / "labels" / "final").mkdir(parents=True)
    shutil.copy(folder / "made" / "images" / "a.nii.gz", folder / "studies" / "a.nii.gz")
    shutil.copy(folder / "made" / "labels" / "a.nii.gz", folder / "studies" / "labels" / "final" / "a.nii.gz")
    return folder / "studies"
