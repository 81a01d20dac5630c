"""An organ's mask is taken from a label map, with the marks that correct it."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.prompting import SliceMarks, masked_organ


@pytest.fixture
def labels(tiny: Volume) -> Volume:
    """Returns a label map with liver on slices 2 and 4, and another organ on slice 0."""
    array = np.zeros(tiny.array.shape, np.uint8)
    array[[2, 4], 2:5, 2:5], array[0, 1, 1] = 6, 1
    return tiny.with_array(array)


def test_only_the_voxels_of_the_organ_count(tiny: Volume, labels: Volume) -> None:
    organ = masked_organ(tiny, labels, 6)
    assert organ.covered == [2, 4]
    assert (organ.z_min, organ.z_max, organ.marks) == (2, 4, ())


def test_marks_are_optional_and_extend_the_range(tiny: Volume, labels: Volume) -> None:
    organ = masked_organ(tiny, labels, 6, inside=[[4, 4, 5]], outside=[[1, 1, 3]])
    assert organ.marks == (SliceMarks(3, outside=((1, 1),)), SliceMarks(5, inside=((4, 4),)))
    assert (organ.z_min, organ.z_max) == (2, 5)


@pytest.mark.parametrize(("reach", "ends"), [(None, (2, 4)), (0, (2, 4)), (3.0, (1, 5)), (1e5, (0, 5))])
def test_the_organ_is_searched_beyond_the_mask_only_if_a_reach_is_given(
    tiny: Volume, labels: Volume, reach: float | None, ends: tuple[int, int]
) -> None:
    organ = masked_organ(tiny, labels, 6, reach=reach)  # the slices' spacing is 3 mm
    assert (organ.z_min, organ.z_max) == ends


def test_a_label_map_without_the_organ_is_refused(tiny: Volume, labels: Volume) -> None:
    with pytest.raises(InputError, match=r"upload: has no voxel of stomach \(label 7\)"):
        masked_organ(tiny, labels, 7, source="upload")


def test_the_checksum_depends_on_the_voxels_of_the_organ_only(tiny: Volume, labels: Volume) -> None:
    first = masked_organ(tiny, labels, 6).sha256
    other = labels.array.copy()
    other[1] = 3
    assert masked_organ(tiny, tiny.with_array(other), 6).sha256 == first
    other[2, 2, 2] = 0
    assert masked_organ(tiny, tiny.with_array(other), 6).sha256 != first
