"""Marks from viewers are converted to marks of the LPS volume, or refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.volume import Volume, from_sitk
from medsam2_atlas.prompting import MarkedOrgan, SliceMarks, marked_organ


def test_boxes_define_the_organ_and_points_on_other_slices_correct_it(tiny: Volume) -> None:
    organ = marked_organ(tiny, 6, boxes=[[[7, 5, 2], [3, 1, 2]]], inside=[[4, 4, 4], [5, 5, 2]], outside=[[0, 0, 2], [1, 1, 0]])
    assert organ.defining == (SliceMarks(2, (3, 1, 7, 5), ((5, 5),), ((0, 0),)),)
    assert organ.correcting == (SliceMarks(0, outside=((1, 1),)), SliceMarks(4, inside=((4, 4),)))
    assert (organ.label, organ.z_min, organ.z_max) == (6, 0, 5)


def test_without_a_box_the_first_point_on_the_organ_defines_it(tiny: Volume) -> None:
    organ = marked_organ(tiny, 6, inside=[[4, 4, 4], [5, 5, 1], [6, 4, 4]])
    assert [marks.z for marks in organ.defining] == [4]
    assert [marks.z for marks in organ.correcting] == [1]


@pytest.mark.parametrize(("reach", "ends"), [(0, (2, 3)), (3.0, (1, 4)), (1e4, (0, 5)), (None, (0, 5))])
def test_reach_is_millimetres_from_the_outermost_marks(tiny: Volume, reach: float | None, ends: tuple[int, int]) -> None:
    organ = marked_organ(tiny, 6, inside=[[4, 4, 2], [4, 4, 3]], reach=reach)  # the slices' spacing is 3 mm
    assert (organ.z_min, organ.z_max) == ends


@given(
    point=st.tuples(st.integers(0, 9), st.integers(0, 7), st.integers(0, 5)), code=st.sampled_from(["LPS", "RAS", "PIR", "SAL"])
)
def test_points_are_voxels_of_the_file_for_all_axes(point: tuple[int, int, int], code: str) -> None:
    array = np.arange(480, dtype=np.float32).reshape(6, 8, 10)
    image = sitk.DICOMOrient(sitk.GetImageFromArray(array), code)
    where = np.argwhere(sitk.GetArrayFromImage(image) == array[point[2], point[1], point[0]])[0][::-1]
    volume = from_sitk(image)
    (marks,) = marked_organ(volume, 1, inside=[where.tolist()]).defining
    ((x, y),) = marks.inside
    assert volume.array[marks.z, int(y), int(x)] == array[point[2], point[1], point[0]]


@pytest.mark.parametrize(
    ("marks", "problem"),
    [
        ({}, "do not show the organ"),
        ({"outside": [[1, 1, 1]]}, "do not show the organ"),
        ({"inside": [[1, 1, 6]]}, "lies outside the image"),
        ({"inside": [[-1, 1, 1]]}, "lies outside the image"),
        ({"inside": [[1, 1]]}, "is not given as"),
        ({"inside": [["a", 1, 1]]}, "is not given as"),
        ({"inside": [[float("nan"), 1, 1]]}, "is not given as"),
        ({"inside": [[1, 1, 1, 2, 2, 2]]}, "is not given as"),
        ({"inside": [[1, 1, 1]] * 1001}, "are more than 1000"),
        ({"boxes": [[[1, 1, 1], [2, 2, 2]]]}, "does not lie on one axial slice"),
        ({"boxes": [[[1, 1, 1]]]}, "is not given as two corners"),
        ({"boxes": [[1, 1, 1]]}, "is not given as two corners"),
        ({"boxes": [[[1, 1, 1], [2, 2, 1]], [[3, 3, 1], [4, 4, 1]]]}, "is the second one on slice 1"),
    ],
)
def test_marks_that_cannot_be_used_are_refused(tiny: Volume, marks: dict[str, list[object]], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        marked_organ(tiny, 6, **marks)  # type: ignore[arg-type]


def test_inconsistent_marks_of_an_organ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.3"):
        MarkedOrgan(1, 0, 3, (SliceMarks(5, (0, 0, 1, 1)),))
    with pytest.raises(ValueError, match="no slice may be marked twice"):
        MarkedOrgan(1, 0, 3, (SliceMarks(1, (0, 0, 1, 1)),), (SliceMarks(1),))
