"""Packing label maps for viewers, and refusing packed label maps that are not what they should be."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from medsam2_atlas.base.errors import MalformedError
from medsam2_atlas.imaging.packed_labels import pack, unpack

SHAPE = (3, 4, 5)
ORGANS = range(1, 16)
LABELS = np.random.default_rng(0).integers(0, 16, SHAPE).astype(np.uint8)


def unpacked(content: bytes, folder: Path, shape: tuple[int, int, int] = SHAPE, start: int = 0) -> np.ndarray:
    (folder / "body").write_bytes(content)
    return unpack(folder / "body", shape, ORGANS, start)


def test_a_packed_label_map_is_gzip_of_its_voxels_and_always_the_same() -> None:
    assert gzip.decompress(pack(LABELS)) == LABELS.tobytes()
    assert pack(LABELS) == pack(LABELS.copy())
    turned = LABELS.transpose(2, 1, 0)[:, ::-1]
    assert gzip.decompress(pack(turned)) == np.ascontiguousarray(turned).tobytes()


@pytest.mark.parametrize("level", [0, 1, 9])
def test_it_is_unpacked_whatever_program_packed_it(tmp_path: Path, level: int) -> None:
    large = np.random.default_rng(1).integers(0, 16, (7, 500, 600)).astype(np.uint8)  # more than one block
    assert (unpacked(gzip.compress(large.tobytes(), level), tmp_path, (7, 500, 600)) == large).all()
    assert (unpacked(b"before" + pack(LABELS), tmp_path, start=6) == LABELS).all()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not complete"),
        (b"no gzip at all", "not valid gzip"),
        (pack(LABELS)[:-1], "not complete"),
        (pack(LABELS)[:12], "not complete"),
        (pack(LABELS)[:-8] + bytes(8), "not valid gzip"),  # a wrong checksum
        (pack(LABELS) + b"x", "followed by other data"),
        (pack(LABELS) * 2, "followed by other data"),
        (pack(LABELS[:2]), "has 40 voxels instead of 60"),
        (pack(np.zeros((4, 4, 5))), "more than 60 voxels"),
        (pack(LABELS + 1), r"values \[16\]"),
        (pack(np.full(SHAPE, 255)), r"values \[255\]"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(MalformedError, match=problem):
        unpacked(content, tmp_path)


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    content = gzip.compress(bytes(200_000_000), 1)
    tracemalloc.start()
    with pytest.raises(MalformedError, match="more than 60 voxels"):
        unpacked(content, tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
