"""Writes small CTs in all orientations."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ORIENTATIONS = ["".join(letters) for axes in itertools.permutations(("LR", "PA", "SI")) for letters in itertools.product(*axes)]
"""The 48 orientations: the directions in which x, y and z increase."""

_DIRECTIONS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def direction_of(code: str) -> np.ndarray:
    """Returns the matrix `[3, 3]` whose columns are the axes of an orientation in LPS."""
    return np.array([_DIRECTIONS[letter] for letter in code], float).T


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    """Returns the matrix `[3, 3]` that rotates about x, y and z, in this order. degrees: the angles."""
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*np.deg2rad(degrees).tolist())
    return np.array(turn.GetMatrix()).reshape(3, 3)


def small_ct(direction: np.ndarray, seed: int = 0, size: tuple[int, int, int] = (9, 7, 6)) -> sitk.Image:
    """Returns a CT of whole HU with different spacings, and different numbers of voxels along its axes.

    Args:
        direction: matrix `[3, 3]` whose columns are the axes in LPS.
        seed: determines the values.
        size: number of voxels along (x, y, z).
    """
    values = np.random.default_rng(seed).integers(-1024, 2000, size[::-1]).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.75, 1.5, 2.5))
    image.SetOrigin((-31.25, 17.5, -420.0))
    image.SetDirection(direction.ravel().tolist())
    return image


def write_all(folder: Path) -> dict[str, Path]:
    """Writes a CT of each orientation and an oblique one, as NIfTI, NRRD and MHA in turn. Returns the files by study."""
    cts = {code: small_ct(direction_of(code), seed) for seed, code in enumerate(ORIENTATIONS)}
    cts["oblique"] = small_ct(rotation((12.0, -9.0, 23.0)) @ direction_of("RAS"), 99)
    files = {}
    for number, (name, image) in enumerate(cts.items()):
        files[name] = folder / (name + (".nii.gz", ".nrrd", ".mha", ".nii")[number % 4])
        sitk.WriteImage(image, str(files[name]))
    return files
