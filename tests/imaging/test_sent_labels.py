"""Label maps from viewers: voxels with a grid, and numbers with names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.sent_labels import renumber, volume_to_file
from medsam2_atlas.imaging.volume import read_labels

GRID: dict[str, Any] = {
    "dimensions": [4, 3, 2],
    "spacing": [1.0, 2.0, 3.0],
    "origin": [5.0, 6.0, 7.0],
    "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1],
}


def sent(folder: Path, size: int = 24) -> Path:
    """Writes a file of voxels with ascending numbers, x varying fastest."""
    raw = folder / "voxels.bin"
    raw.write_bytes(bytes(range(size)))
    return raw


def test_voxels_and_grid_become_an_image(tmp_path: Path) -> None:
    volume_to_file(sent(tmp_path), GRID, tmp_path / "label.nii.gz")
    labels = read_labels(tmp_path / "label.nii.gz")
    assert labels.array.tolist() == np.arange(24).reshape(2, 3, 4).tolist()
    assert labels.geometry.spacing == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"dimensions": [4, 3, 3]}, "has 24 bytes"),
        ({"spacing": "wide"}, "is not a valid grid"),
        ({"direction": [1, 0, 0]}, "is not a valid grid"),
        ({"direction": [1, 0, 0, 1, 0, 0, 0, 0, 1]}, "axes that are not at right angles"),
    ],
)
def test_an_invalid_grid_is_refused(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=problem):
        volume_to_file(sent(tmp_path), GRID | change, tmp_path / "label.nii.gz")


def test_a_file_whose_numbers_agree_with_the_table_is_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "label.nii.gz"
    volume_to_file(sent(tmp_path), GRID, file)
    before = file.read_bytes()
    renumber(file, [{"name": "spleen", "idx": 1}])
    assert file.read_bytes() == before


def test_names_without_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a list of names and numbers"):
        renumber(tmp_path / "label.nii.gz", [{"name": "spleen"}])
