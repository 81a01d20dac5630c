"""Results never replace data or the files of other programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.experiment.results_folder import check_results_folder


def test_results_are_not_written_into_folders_of_the_data(tmp_path: Path) -> None:
    for out, data in (("data", "data"), ("data", "data/labels"), (".", "labels"), ("out", "out/atlases/1-references")):
        with pytest.raises(InputError, match="a folder of the data"):
            check_results_folder(tmp_path / out, [tmp_path / data])
    check_results_folder(tmp_path / "data", [tmp_path / "data" / "images", tmp_path / "data" / "truth"])


@pytest.mark.parametrize("name", ["report.html", "plots/mine.svg"])
def test_files_of_another_program_are_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=f"no evaluation wrote and that would be replaced: {name}"):
        check_results_folder(tmp_path, [])
    (tmp_path / "made_with.json").write_text("{}", encoding="utf-8")
    check_results_folder(tmp_path, [])
