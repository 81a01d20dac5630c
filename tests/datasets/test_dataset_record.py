"""The record of a data set is found from its folders, and is not confused with files of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.datasets import CaseRecord, Dataset, SourceFile, read_dataset

SOURCE = SourceFile(file="imagesTr/a.nii.gz", sha256="0" * 64)
CASE = CaseRecord(name="a", role="target", organs=("liver",), image=SOURCE, labels=(SOURCE,), voxels="00")
DATASET = Dataset(
    version="1",
    layout="btcv",
    title="BTCV",
    layout_sha256="0",
    hu="check",
    annotated=("liver", "spleen"),
    cases=(CASE,),
    complete=True,
)


def test_the_record_is_found_up_to_two_folders_above(tmp_path: Path) -> None:
    deep = tmp_path / "targets" / "labels" / "deeper"
    deep.mkdir(parents=True)
    DATASET.write(tmp_path)
    for folder in (tmp_path, tmp_path / "targets", tmp_path / "targets" / "labels"):
        assert read_dataset(folder) == DATASET
    assert read_dataset(deep) is None


def test_annotated_organs_are_numbers_in_ascending_order() -> None:
    assert DATASET.annotated_organs == (1, 6)
    assert DATASET.of_role("target") == (CASE,) and DATASET.of_role("reference") == ()


@pytest.mark.parametrize("text", ['{"labels": {"0": "background"}}', "[1]", "no JSON", "\xff"])
def test_files_of_other_programs_are_no_record_and_the_search_goes_on(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "dataset.json").write_text(text, encoding="latin-1")
    assert read_dataset(tmp_path / "labels") is None
    DATASET.write(tmp_path)
    assert read_dataset(tmp_path / "labels") == DATASET


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"annotated": ["lung"]}, "lung is not in the organ table"),
        ({"complete": None}, "complete"),
        ({"more": 1}, "more"),
    ],
)
def test_a_damaged_record_is_an_error(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    content = json.loads(DATASET.model_dump_json()) | change
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"is not a record of a data set: .*{problem}"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps(content)[:-1])
    with pytest.raises(InputError, match="is not valid JSON"):
        read_dataset(tmp_path)
