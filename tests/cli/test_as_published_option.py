"""The option `--as-published` of `segment` makes all steps follow the published method."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.overlay import current_overlay
from medsam2_atlas.cli import app
from medsam2_atlas.cli import as_published as checks
from medsam2_atlas.cli import configurations as listed
from medsam2_atlas.prompting import PromptingConfig
from medsam2_atlas.scoremaps import fusion_config
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.strategies import Strategy
from medsam2_atlas.studies import as_published, runner

CLI = CliRunner()


def segment(*arguments: str) -> str:
    """Runs the command on a CT that does not exist, and returns its output and error in one line."""
    ran = CLI.invoke(app, ["segment", "missing.nii.gz", "-o", "label.nii.gz", *arguments])
    assert ran.exit_code != 0
    return " ".join(f"{ran.output} {ran.exception}".split())


@pytest.mark.parametrize("option", ["--loop symmetric", "--thresholds adaptive", "--thresholds atlas", "--registration dense"])
def test_a_contradictory_option_is_refused_even_if_it_has_its_default(option: str) -> None:
    message = segment("--as-published", *option.split())
    assert f"--as-published: contradicts {option}. Omit one of the two options." in message
    assert current_overlay() is None


def test_the_option_checks_against_the_values_that_the_method_sets() -> None:
    expected = {"loop": as_published.LOOP, "thresholds": as_published.THRESHOLDS, "mode": as_published.MODE}
    assert expected | {"registration": as_published.REGISTRATION} == checks._PUBLISHED


def test_options_that_agree_are_accepted() -> None:
    message = segment("--as-published", "--loop", "published", "--thresholds", "published")
    assert "contradicts" not in message
    assert current_overlay() is not None


def test_a_trained_segmenter_does_not_use_it() -> None:
    assert "does not use --as-published" in segment("--as-published", "--segmenter", "unet_3d")


def test_changed_settings_that_stay_in_force_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = PromptingConfig.model_validate({"min_score": 0.2, "min_fully_imaged": 0.9})
    monkeypatch.setattr(listed, "configurations", lambda: {"prompting.yaml": lambda: changed})
    message = segment("--as-published")
    assert "your settings stay in force: prompting.yaml: min_fully_imaged" in message
    assert "min_score" not in message


def test_the_segmenter_runs_with_the_settings_and_options_of_the_method(
    short_files: ReferenceFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Options, str]] = []

    def run(segmenter: object, image: object, options: Options, models: object) -> None:
        seen.append((options, fusion_config().vote.label_fusion))
        raise InputError("run", "stops here.", "No remedy.")

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(Strategy, "check", lambda _: None)  # there is no atlas
    arguments = ["segment", str(short_files.image), "-o", str(tmp_path / "label.nii.gz"), "--segmenter", "A", "--organs", "6"]
    for option in ([], ["--as-published"]):
        assert "stops here" in str(CLI.invoke(app, [*arguments, *option]).exception)
    default = Options(organs=(6,))
    assert seen == [(default, "local"), (replace(default, loop="published", thresholds="published"), "mean")]


@pytest.mark.slow
def test_a_patient_is_segmented_as_published(short_files: ReferenceFiles, atlas_folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ["segment", str(short_files.image), "-o", str(tmp_path / "label.nii.gz"), "--atlas", str(atlas_folder)]
    ran = CLI.invoke(app, [*arguments, "--segmenter", "B", "--as-published", "--report", str(report)])
    assert ran.exit_code == 0, ran.output
    content = json.loads(report.read_text())
    assert (content["loop"], content["thresholds"]) == ("published", "published")
    assert content["volumes_ml"]["liver"] > 500
