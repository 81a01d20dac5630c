"""The plan of an experiment: its variants and smaller atlases."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.experiment.plan import smaller_atlases, variants_of
from medsam2_atlas.prompting import Jitter


def test_segmenters_come_first_then_fewer_references_then_jitter() -> None:
    found = variants_of(["D", "unet_3d"], [3, 1], [Jitter("shift", 10), Jitter("scale", -5)])
    assert [variant.name for variant in found] == [
        "D",
        "unet_3d",
        "reference-3",
        "D, 1 reference",
        "D, 3 references",
        "reference-3, scale=-5 mm",
        "reference-3, shift=10 mm",
    ]
    assert len({variant.folder for variant in found}) == len(found)


@pytest.mark.parametrize(
    ("segmenters", "references", "problem"),
    [
        (["D", "D"], [], "is named twice"),
        (["medsam2"], [], "needs a person's marks"),
        (["unet_3d"], [1], "needs a segmenter that uses the atlas"),
        (["Z"], [], "is not a segmenter"),
    ],
)
def test_an_impossible_plan_is_refused(segmenters: list[str], references: list[int], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        variants_of(segmenters, references)


def test_smaller_atlases_are_nested_and_kept(atlas: Atlas, tmp_path: Path) -> None:
    folders = smaller_atlases(atlas, [1, 2], tmp_path / "atlases", seed=0)
    names = {count: {r.name for r in Atlas.load(folder).references} for count, folder in folders.items()}
    assert {count: len(found) for count, found in names.items()} == {1: 1, 2: 2}
    assert names[1] < names[2]
    before = (folders[1] / "atlas.json").stat().st_ino
    smaller_atlases(atlas, [1, 2], tmp_path / "atlases", seed=0)
    assert (folders[1] / "atlas.json").stat().st_ino == before
    with pytest.raises(InputError, match="The atlas has 3 references"):
        smaller_atlases(atlas, [4], tmp_path / "atlases", seed=0)
