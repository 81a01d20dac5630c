"""The option `--mode` of `segment`, `propagate` and `evaluate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blocks import PATIENT, labelled
from medsam2_atlas import medsam2
from medsam2_atlas.base.choices import Mode
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli import app
from medsam2_atlas.experiment import conduct
from medsam2_atlas.experiment.cases import EvaluationCase
from medsam2_atlas.experiment.measure import keys
from medsam2_atlas.experiment.setting import Setting
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.strategies import Strategy
from medsam2_atlas.studies import runner
from medsam2_atlas.studies.models import Models

CLI = CliRunner()
STOP = InputError("run", "stops here.", "No remedy.")


def output(*arguments: str | Path) -> str:
    """Runs a command that fails, and returns its output and error in one line."""
    ran = CLI.invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    assert ran.exit_code != 0
    return " ".join(f"{ran.output} {ran.exception}".split())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    labelled(tmp_path, "a", PATIENT)
    return next((tmp_path / "images").iterdir())


@pytest.mark.parametrize("command", ["segment", "propagate", "evaluate"])
def test_an_unknown_mode_is_refused_with_the_known_ones(command: str) -> None:
    message = output(command, "--mode", "quick", "ct.nii.gz")
    for words in ("--mode", "'quick'", "'exact'", "'fast'"):
        assert words in message


def test_a_trained_segmenter_refuses_the_fast_mode(tmp_path: Path) -> None:
    given = ("segment", "ct.nii.gz", "-o", tmp_path / "l.nii.gz", "--segmenter", "unet_3d", "--mode")
    assert "unet_3d: does not use --mode. Omit these options" in output(*given, "fast")
    assert "does not use" not in output(*given, "exact")


def test_the_published_method_runs_in_the_exact_mode(tmp_path: Path) -> None:
    given = ("segment", "ct.nii.gz", "-o", tmp_path / "l.nii.gz", "--as-published", "--mode")
    assert "--as-published: contradicts --mode fast. Omit one of the two options." in output(*given, "fast")
    assert "contradicts" not in output(*given, "exact")


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_segment_gives_the_mode_to_the_segmenter(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    seen: list[Options] = []

    def run(segmenter: object, image: object, options: Options, models: object) -> None:
        seen.append(options)
        raise STOP

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(Strategy, "check", lambda _: None)  # there is no atlas
    message = output("segment", image, "-o", tmp_path / "l.nii.gz", "--segmenter", "B", "--mode", mode)
    assert [options.mode for options in seen] == [mode]
    assert ("mode: fast. The masks differ" in message) == (mode == "fast")


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_propagate_runs_the_engine_in_that_mode(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    prompts = [{"label": 6, "z_min": 0, "z_max": 2, "boxes": [{"z": 1, "box": [2, 2, 6, 6]}]}]
    (tmp_path / "p.json").write_text(json.dumps(prompts), encoding="utf-8")
    seen: list[Mode] = []

    def engine(*_: object, mode: Mode, **__: object) -> Any:
        seen.append(mode)
        raise STOP

    monkeypatch.setattr(medsam2, "MedSAM2Volume", engine)
    output("propagate", image, "--prompts", tmp_path / "p.json", "--logits", tmp_path / "l.npz", "--mode", mode)
    assert seen == [mode]


def test_evaluate_makes_the_mode_part_of_the_setting(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Setting] = []

    def stop(setting: Setting, *_: object) -> None:
        seen.append(setting)
        raise STOP

    monkeypatch.setattr(conduct, "conduct", stop)
    folders = ("--images", image.parent, "--labels", tmp_path / "labels", "--out", tmp_path / "out", "--segmenters", "D")
    for options in ((), ("--mode", "fast"), ("--mode", "exact", "--as-published")):
        output("evaluate", *folders, *options)
    assert [setting.options.mode for setting in seen] == ["exact", "fast", "exact"]
    assert "contradicts --mode fast" in output("evaluate", *folders, "--mode", "fast", "--as-published")


def test_a_record_of_one_mode_is_not_used_for_the_other(image: Path, tmp_path: Path) -> None:
    case = EvaluationCase("a", image, next((tmp_path / "labels").iterdir()), "image", "label")
    exact = Setting(tmp_path / "out", (Variant(segmenter="reference-3"), Variant(segmenter="atlas")), (6,))
    models = Models({"device": "cpu"})

    def key(setting: Setting) -> dict[str, Any]:
        return next(keys(case, exact.variants[0], setting, models))[1]

    fast = key(replace(exact, mode="fast"))
    assert fast != key(exact)
    assert fast["segmenter"].pop("mode") == "fast"
    del fast["segmenter"]["precision"]  # fast mode may compute in bfloat16
    expected = key(exact)
    del expected["segmenter"]["precision"]
    assert fast == expected
