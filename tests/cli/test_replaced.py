"""Commands on a studies folder leave out label maps whose image was replaced, and studies with two different images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fake_segmenters import FakeSegmenter, plain_models
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli import app
from medsam2_atlas.cli.cases import annotated_cases
from medsam2_atlas.comparison import compare_studies
from medsam2_atlas.segmenters.base import Segmentation
from medsam2_atlas.storage import FINAL, StudyFolder, StudyStore, unopened_studies
from storage.test_store import SHAPE, ct, label, write

OTHER = np.arange(480, dtype=np.int16).reshape(SHAPE)[::-1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder of three signed-off studies; the image of `b` was replaced, and `c` has two different images."""
    folder = tmp_path / "studies"
    for name in ("a", "b", "c"):
        ct(folder, name)
    store = StudyStore(folder)
    for name in ("a", "b", "c"):
        store.save_label(name, FINAL, label(tmp_path / "x.nii.gz", 6))
    write(folder / "b.nii.gz", OTHER)
    write(folder / "c.mha", OTHER)
    return folder


def test_studies_with_a_replaced_or_ambiguous_image_are_not_used_for_training(folder: Path) -> None:
    skipped: dict[str, str] = {}
    assert [files.name for files in annotated_cases(folder, skipped)] == ["a"]
    assert set(skipped) == {"b", "c"}
    assert "belongs to another image" in skipped["b"]
    assert "c.mha and c.nii.gz: they are different images" in skipped["c"]
    with pytest.raises(InputError, match="different images"):
        annotated_cases(folder, None)


def test_the_command_confirm_makes_a_label_map_usable_again(folder: Path) -> None:
    ran = CliRunner().invoke(app, ["labels", "confirm", str(folder), "b"])
    assert ran.exit_code == 0, ran.output
    assert "confirmed as version 2" in ran.output
    assert [files.name for files in annotated_cases(folder, {})] == ["a", "b"]


def test_a_comparison_reports_the_studies_that_it_leaves_out(folder: Path) -> None:
    def refuse(*_: object) -> Segmentation:
        raise InputError("model", "must not be run")

    pair, models = (FakeSegmenter("atlas", {}, refuse), FakeSegmenter("unet_3d", {}, refuse)), plain_models(folder)
    problems = compare_studies(StudyFolder(folder), pair, models).problems
    assert "different images" in problems["c"]
    with pytest.raises(InputError, match="another image"):
        compare_studies(StudyFolder(folder), pair, models, strict=True)


def test_a_check_does_not_change_the_folder(tmp_path: Path) -> None:
    ct(tmp_path, "a")
    ct(tmp_path, "b")
    write(tmp_path / "b.mha", OTHER)
    ct(tmp_path, "c")
    write(tmp_path / "c.mha", np.arange(480, dtype=np.int16).reshape(SHAPE))
    label(tmp_path / "labels/final/a.nii.gz", 6)
    label(tmp_path / "labels/final/c.nii.gz", 6)
    label(tmp_path / "labels/final/c.nrrd", 2)
    before = sorted(tmp_path.rglob("*"))
    studies, problems = unopened_studies(StudyFolder(tmp_path))
    assert [(study.name, study.final is not None) for study in studies] == [("a", True), ("c", False)]
    assert "different images" in problems["b"]
    assert "has several label maps under final: c.nii.gz, c.nrrd" in problems["c"]
    shown = CliRunner().invoke(app, ["check", str(tmp_path)], env={"COLUMNS": "300"}).output
    assert "different images" in shown
    assert sorted(tmp_path.rglob("*")) == before
