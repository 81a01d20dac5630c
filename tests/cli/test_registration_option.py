"""The option `--registration` chooses the method of a command, whatever the settings say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import medsam2_atlas.atlas as atlases
from blocks import PATIENT, bare_reference, labelled
from medsam2_atlas.atlas import Atlas, BuildOptions, ReferenceFiles
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.overlay import choose_settings
from medsam2_atlas.cli import app
from medsam2_atlas.cli.as_published import print_other_registration
from medsam2_atlas.experiment.run import _start_worker
from medsam2_atlas.experiment.setting import Setting
from medsam2_atlas.registration import registration_config
from medsam2_atlas.segmenters.strategies import Strategy
from medsam2_atlas.studies import runner

CLI = CliRunner()


def stop(*_: Any, **__: Any) -> None:
    raise InputError("run", f"uses {registration_config().method}.", "No remedy.")


@pytest.mark.parametrize("method", ["keypoints", "dense", "both"])
def test_a_ct_is_segmented_by_the_chosen_registration(
    method: str, short_files: ReferenceFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run", stop)
    monkeypatch.setattr(Strategy, "check", lambda _: None)  # there is no atlas
    arguments = ["segment", str(short_files.image), "-o", str(tmp_path / "label.nii.gz"), "--segmenter", "atlas"]
    assert f"uses {method}" in str(CLI.invoke(app, [*arguments, "--registration", method]).exception)
    choose_settings("registration.yaml", {})
    assert "uses dense" in str(CLI.invoke(app, arguments).exception)


def test_an_atlas_is_built_by_the_chosen_registration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(files: object, options: BuildOptions, **_: Any) -> None:
        built.append(options.registration.method)
        stop()

    monkeypatch.setattr(atlases, "build_atlas", build)
    labelled(tmp_path / "references", "a", PATIENT)
    arguments = ["atlas", "build", str(tmp_path / "references"), str(tmp_path / "atlas")]
    for option in (["--registration", "both"], ["--registration", "keypoints"]):
        assert "uses" in str(CLI.invoke(app, [*arguments, *option]).exception)
    assert built == ["both", "keypoints"]


def test_worker_processes_of_an_evaluation_use_it_too(tmp_path: Path) -> None:
    _start_worker(Setting(tmp_path, (), (), registration="keypoints", conf={"device": "cpu"}))
    assert registration_config().method == "keypoints"
    _start_worker(Setting(tmp_path, (), (), registration="keypoints", as_published=True))
    assert registration_config().keypoints.max_offset == 0


def test_unknown_methods_and_segmenters_without_registration_are_refused() -> None:
    arguments = ["segment", "missing.nii.gz", "-o", "label.nii.gz"]
    assert "'convex_adam' is not one of" in CLI.invoke(app, [*arguments, "--registration", "convex_adam"]).output
    ran = CLI.invoke(app, [*arguments, "--segmenter", "unet_3d", "--registration", "dense"])
    assert "does not use --registration" in str(ran.exception)


def test_a_note_names_the_registration_of_an_atlas_that_is_not_the_published_one(
    atlas: Atlas, capsys: pytest.CaptureFixture[str]
) -> None:
    print_other_registration(atlas)
    assert "by dense, the published ones by keypoints" in " ".join(capsys.readouterr().err.split())
    print_other_registration(replace(atlas, options={"registration": {"method": "keypoints"}}))
    print_other_registration(None)
    assert capsys.readouterr().err == ""
    old = replace(atlas, options={"registration": {"method": "convex_adam"}}, references=(bare_reference("a"),))
    assert old.registered_by == "dense"
