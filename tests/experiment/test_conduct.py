"""An experiment writes all its files; a killed one resumes, and its accuracy is the same byte for byte."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from blocks import PATIENT, labelled
from fake_session import FakeSession
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.experiment import Variant, conduct, record
from medsam2_atlas.experiment.choice import Choice
from medsam2_atlas.experiment.setting import Setting
from medsam2_atlas.imaging.labels import organ_table

ACCURACY = ("cases.csv", "tables.md", "tables.tex", "summary.json")
NAMES = ("a", "b<i>", "c")
KINDS = ("images", "labels")


@pytest.fixture
def choice(tmp_path: Path) -> Choice:
    for name, first in zip(NAMES, (0, 2, 1), strict=True):
        labelled(tmp_path / "data", name, PATIENT, z_from=first)
    return Choice(*(tmp_path / "data" / kind for kind in KINDS))


@pytest.fixture
def conducted(choice: Choice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeSession]:
    """Returns a function that conducts an experiment with a fake U-Net in a folder, and returns its session."""

    def run_in(folder: str, after: Callable[[], None] = lambda: None) -> FakeSession:
        made: list[FakeSession] = []

        def session(setting: Setting) -> FakeSession:
            made.append(FakeSession(setting))
            made[0].after = after
            return made[0]

        monkeypatch.setattr(conduct, "Session", session)
        setting = Setting(tmp_path / folder, (Variant(segmenter="unet_3d"),), (), energy=False)
        conduct.conduct(setting, choice)
        return made[0]

    return run_in


def test_an_experiment_writes_tables_tests_plots_and_a_report(conducted: Callable[..., FakeSession], tmp_path: Path) -> None:
    session = conducted("out")
    out = tmp_path / "out"
    assert session.setting.organs == tuple(organ_table().indices), "all organs, as no data set says which are annotated"
    with (out / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["organ_name"]) for row in rows] == [(n, o) for n in NAMES for o in ("liver", "bladder")]
    made = json.loads((out / "made_with.json").read_text(encoding="utf-8"))
    assert set(made["data"]) == set(NAMES)
    assert made["marks"] == ["demo weights"]
    assert made["mode"] == "exact"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "b&lt;i&gt;" in page
    assert "b<i>" not in page
    assert page.count("data:image/jpeg") >= 6, "ground truth and prediction of the best, median and worst case"
    assert str(tmp_path) not in page, "no path of this machine"
    assert {file.name for file in (out / "plots").iterdir()} >= {"dice.svg", "seconds.svg", "confusion-unet_3d.svg"}


class Killed(BaseException):
    """Stands for the end of the process: no code of the project catches it."""


def _kill() -> None:
    raise Killed


def test_a_killed_experiment_resumes_with_the_same_accuracy(
    conducted: Callable[..., FakeSession], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conducted("whole")
    segmented: list[str] = []
    with pytest.raises(Killed):  # in the first case, while the network runs
        conducted("out", _kill)
    with monkeypatch.context() as patch:  # between the label map and the record of the first case
        patch.setattr(record.Record, "write", lambda *_: _kill())
        with pytest.raises(Killed):
            conducted("out")
    assert (tmp_path / "out" / "labels" / "unet_3d" / "a.nii.gz").is_file()
    assert not list((tmp_path / "out" / "records").rglob("*.json"))

    def second() -> None:
        segmented.append("")
        if len(segmented) == 2:
            _kill()

    with pytest.raises(Killed):  # in the second case
        conducted("out", second)
    session = conducted("out")
    assert session.ran == ["b<i>.nii.gz", "c.nii.gz"], "the first case was finished"
    for name in ACCURACY:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert conducted("out").ran == []


def test_a_record_that_cannot_be_read_is_made_again(conducted: Callable[..., FakeSession], tmp_path: Path) -> None:
    conducted("out")
    (tmp_path / "out" / "records" / "unet_3d" / "c.json").write_bytes(b"\xff")
    assert conducted("out").ran == ["c.nii.gz"]


def test_an_experiment_without_any_result_says_why(
    conducted: Callable[..., FakeSession], choice: Choice, tmp_path: Path
) -> None:
    for file in choice.labels.iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"gets no results: a, unet_3d: .*labels/a\.nii\.gz"):
        conducted("out")
    assert not (tmp_path / "out" / "report.html").exists()


def test_cases_that_are_left_out_are_in_the_report(
    conducted: Callable[..., FakeSession], choice: Choice, tmp_path: Path
) -> None:
    (choice.labels / "c.nii.gz").unlink()
    conducted("out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "labels/ has no file of that name." in page
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["problems"]["c"]


def test_a_left_out_case_with_the_name_of_a_segmenter_hides_no_results(
    conducted: Callable[..., FakeSession], choice: Choice, tmp_path: Path
) -> None:
    labelled(choice.images.parent, "unet_3d", PATIENT, z_from=3)
    (choice.labels / "unet_3d.nii.gz").unlink()
    conducted("out")
    rows = (tmp_path / "out" / "cases.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 2 * len(NAMES)


def test_names_that_are_not_utf_8_are_left_out(conducted: Callable[..., FakeSession], choice: Choice, tmp_path: Path) -> None:
    for folder in (choice.images, choice.labels):
        try:
            (folder / "c.nii.gz").rename(folder / "c\udcff.nii.gz")
        except OSError:
            pytest.skip("this disk refuses such names")
    assert conducted("out").ran == ["a.nii.gz", "b<i>.nii.gz"]
    problems = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["problems"]
    assert problems == {"c\\udcff": "has a name that is not UTF-8, which tables cannot contain. Rename image and label map."}


def test_files_of_earlier_choices_are_removed(conducted: Callable[..., FakeSession], tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "plots").mkdir(parents=True)
    old = [out / "sensitivity.csv", out / "references.csv", out / "plots" / "confusion-D.svg"]
    for file in old:
        file.write_text("", encoding="utf-8")
    conducted("out")
    assert not any(file.exists() for file in old)


def test_problems_in_the_report_do_not_name_the_home_of_the_user(
    conducted: Callable[..., FakeSession], choice: Choice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (choice.labels / "c.nii.gz").write_bytes(b"damaged")
    conducted("out")
    summary = (tmp_path / "out" / "summary.json").read_text(encoding="utf-8")
    assert "~/data/labels/c.nii.gz" in summary
    assert str(tmp_path) not in summary
