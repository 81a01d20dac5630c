"""The CT that was read last is read again only if its file changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.hounsfield import HuRule
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters import last_image
from medsam2_atlas.segmenters.last_image import LastImage
from medsam2_atlas.segmenters.open_images import OpenImages

AS_IS, VOXELS = HuRule.parse("as-is"), 4 * 6 * 8


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Returns the paths that were read, in order."""
    found: list[Path] = []
    read_ct = last_image.read_ct

    def counted(path: Path, rule: HuRule) -> Volume:
        found.append(path)
        return read_ct(path, rule)

    monkeypatch.setattr(last_image, "read_ct", counted)
    return found


def written(file: Path, value: int) -> Path:
    array = np.zeros((4, 6, 8), np.int16)
    array[1] = value
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
    return file


def test_a_ct_is_read_once_until_its_file_or_the_rule_changes(tmp_path: Path, read: list[Path]) -> None:
    one, last = written(tmp_path / "one.nii.gz", 1), LastImage()
    first = last.read(one, AS_IS)
    assert last.read(one, AS_IS) is first
    assert last.bytes == first.array.nbytes
    last.read(one, HuRule("as-is", 1.0))
    assert len(read) == 2
    written(one, 2)
    os.utime(one, ns=(1, 1))
    assert last.read(one, AS_IS).array.max() == 2
    other = written(tmp_path / "other.nii.gz", 3)
    assert last.read(other, AS_IS).array.max() == 3
    last.close()
    assert last.bytes == 0
    last.read(other, AS_IS)
    assert len(read) == 5


def test_a_ct_whose_file_changes_while_it_is_read_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, last = written(tmp_path / "one.nii.gz", 1), LastImage()
    read_ct = last_image.read_ct

    def late(path: Path, rule: HuRule) -> Volume:
        found = read_ct(path, rule)
        os.utime(path, ns=(1, 1))
        return found

    monkeypatch.setattr(last_image, "read_ct", late)
    last.read(one, AS_IS)
    assert last.bytes == 0


def test_a_missing_file_gives_the_reader_s_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone"):
        LastImage().read(tmp_path / "gone.nii.gz", AS_IS)


@pytest.mark.parametrize(("limit", "kept"), [(0, False), (10**6, True)])
def test_the_last_ct_is_kept_if_it_fits_into_the_memory(tmp_path: Path, limit: int, kept: bool) -> None:
    images: Any = OpenImages(lambda _: limit)
    found = images.read(written(tmp_path / "one.nii.gz", 1), AS_IS)
    assert images.bytes == kept * found.array.nbytes
    assert found.array.size == VOXELS
    images.close()
    assert images.bytes == 0
