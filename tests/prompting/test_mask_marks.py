"""Boxes and points that correct masks are read from a file, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.prompting import BoxPrompt, SliceMarks
from medsam2_atlas.prompting.mask_marks import LabelMarks, read_label_marks


def read(content: Any, tiny: Volume, folder: Path) -> dict[int, LabelMarks]:
    (folder / "marks.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return read_label_marks(folder / "marks.json", tiny.geometry)


def test_boxes_and_points_are_grouped_by_slice(tiny: Volume, tmp_path: Path) -> None:
    entry = {
        "label": 6,
        "boxes": [{"z": 3, "box": [1, 2, 5, 6]}],
        "points": [{"z": 3, "outside": [[0, 0]]}, {"z": 1, "inside": [[4, 4]]}, {"z": 3, "inside": [[2, 3]]}],
    }
    found = read([entry], tiny, tmp_path)
    assert found == {6: LabelMarks(6, (SliceMarks(1, inside=((4, 4),)), SliceMarks(3, (1, 2, 5, 6), ((2, 3),), ((0, 0),))))}


def test_prompts_of_a_report_are_marks(tiny: Volume, tmp_path: Path) -> None:
    report = {"prompts": [{"label": 6, "z_min": 0, "z_max": 5, "boxes": [{"z": 3, "box": [1, 2, 5, 6], "world": []}]}]}
    prompt = read(report, tiny, tmp_path)[6].alone(tmp_path)
    assert (prompt.z_min, prompt.z_max, prompt.boxes) == (0, 5, (BoxPrompt(3, (1, 2, 5, 6)),))


def test_the_range_of_a_mask_contains_mask_marks_and_the_given_range(tiny: Volume, tmp_path: Path) -> None:
    mask = np.zeros(tiny.array.shape, bool)
    mask[2:4, 2:4, 2:4] = True
    organ = read([{"label": 6, "z_max": 4, "points": [{"z": 1, "inside": [[4, 4]]}]}], tiny, tmp_path)[6].with_mask(mask)
    assert (organ.z_min, organ.z_max) == (1, 4)


@pytest.mark.parametrize(
    "entry",
    [
        {"label": 6, "boxes": [{"z": 3, "box": [1, 2, 5, 6]}]},
        {"label": 6, "z_min": 0, "z_max": 5},
        {
            "label": 6,
            "z_min": 0,
            "z_max": 5,
            "boxes": [{"z": 3, "box": [1, 2, 5, 6]}],
            "points": [{"z": 1, "inside": [[1, 1]]}],
        },
    ],
)
def test_a_label_without_a_mask_needs_a_whole_prompt(entry: dict[str, Any], tiny: Volume, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="label 6, which is not in the mask"):
        read([entry], tiny, tmp_path)[6].alone(tmp_path / "marks.json")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("nothing", "does not contain marks"),
        ("[" * 100_000, "does not contain marks"),
        ({"report": 1}, "does not contain marks"),
        ([{"label": 0}], "does not contain marks"),
        ('[{"label": 6, "points": [{"z": 1, "inside": [[NaN, 1]]}]}]', "does not contain marks"),
        ([{"label": 6}, {"label": 6}], "twice"),
        ([{"label": 6, "boxes": [{"z": 1, "box": [1, 1, 2, 2]}, {"z": 1, "box": [1, 1, 3, 3]}]}], "twice"),
        ([{"label": 6, "points": [{"z": 6, "inside": [[1, 1]]}]}], "outside the volume"),
        ([{"label": 6, "points": [{"z": 1, "inside": [[9.6, 1]]}]}], "outside the volume"),
        ([{"label": 6, "points": [{"z": 1, "outside": [[1, -1]]}]}], "outside the volume"),
        ([{"label": 6, "boxes": [{"z": 1, "box": [1, 1, 11, 2]}]}], "outside the volume"),
        ([{"label": 6, "boxes": [{"z": 1, "box": [5, 1, 2, 2]}]}], "ends swapped"),
        ([{"label": 6, "z_min": 4, "z_max": 2}], "ends swapped"),
    ],
)
def test_unusable_marks_are_refused(content: Any, problem: str, tiny: Volume, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        read(content, tiny, tmp_path)
    assert "marks.json" in str(caught.value)
