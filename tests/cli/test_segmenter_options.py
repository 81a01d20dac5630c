"""The option `--segmenter` selects the segmenter; old names of the option are accepted for one release."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli import app
from medsam2_atlas.cli.compare import DEFAULTS
from medsam2_atlas.cli.options import check_segmenter, named_folders, renamed

CLI = CliRunner()


def refused(*arguments: str) -> str:
    ran = CLI.invoke(app, list(arguments))
    assert ran.exit_code != 0
    return " ".join(f"{ran.output} {ran.exception}".split())


@pytest.mark.parametrize("option", ["--segmenter", "--strategy"])
def test_an_unknown_segmenter_is_refused_with_the_list_of_all(option: str, tmp_path: Path) -> None:
    message = refused("segment", "ct.nii.gz", "-o", str(tmp_path / "l.nii.gz"), option, "X")
    for name in ("'X': is not a segmenter", "atlas", "D", "reference-3", "unet_2d", "bundle:NAME", "nnunet:NAME"):
        assert name in message


def test_the_old_name_of_an_option_is_accepted_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert renamed("D", None, "--strategy", "--segmenter") == "D"
    assert renamed("D", "B", "--strategy", "--segmenter") == "B"
    message = capsys.readouterr()
    assert "--strategy is now --segmenter" in message.out + message.err


def test_different_values_for_an_option_and_its_old_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Use --segmenter alone"):
        renamed("C", "B", "--strategy", "--segmenter", "D")
    assert renamed("D", "B", "--strategy", "--segmenter", "D") == "B"
    out = str(tmp_path / "l.nii.gz")
    assert "is D, but --segmenter is B" in refused("segment", "ct.nii", "-o", out, "--segmenter", "B", "--strategy", "D")
    both = ("--unet-weights", "a.pt", "--unet", "b.pt")
    assert "is b.pt, but --unet-weights is a.pt" in refused("segment", "ct.nii", "-o", out, *both)
    pair = ("--segmenter", "C", "--segmenter", "unet_2d")
    assert "is atlas, but --segmenter is C" in refused("compare", str(tmp_path), *pair, "--strategy", "atlas")


def test_a_segmenter_without_prompts_refuses_prompt_options(tmp_path: Path) -> None:
    arguments = ("segment", "ct.nii", "-o", str(tmp_path / "l.nii.gz"), "--segmenter", "unet_3d")
    assert "does not use --prompts, --fill-holes" in refused(*arguments, "--prompts", "unet", "--fill-holes")


def test_only_two_segmenters_of_different_models_can_be_compared(tmp_path: Path) -> None:
    assert "Compare two models" in refused("compare", str(tmp_path), "--segmenter", "D", "--segmenter", "B")
    assert "names 1 segmenters" in refused("compare", str(tmp_path), "--segmenter", "D")
    assert "Compare two models" in refused("compare", str(tmp_path), "--strategy", "atlas", "--unet", "atlas")


def test_only_reference_strategies_accept_a_ground_truth() -> None:
    with pytest.raises(InputError, match="a person's marks"):
        check_segmenter("medsam2")
    with pytest.raises(InputError, match="--truth"):
        check_segmenter("reference-1")
    with pytest.raises(InputError, match="--truth"):
        check_segmenter("D", truth=True)
    assert check_segmenter("reference-1", truth=True) == "reference-1"


@pytest.mark.parametrize("wrong", ["bundle:a", "D=folder", "a=b", "bundle:=b", "bundle:../x=b"])
def test_folders_must_be_given_as_name_and_folder(wrong: str) -> None:
    with pytest.raises(InputError):
        named_folders([wrong])
    with pytest.raises(InputError, match="has two folders"):
        named_folders(["bundle:a=/m/a", "bundle:a=/m/b"])
    assert named_folders(["bundle:a=/m/a", "nnunet:b.c=/m/b"]) == {"bundle:a": "/m/a", "nnunet:b.c": "/m/b"}


def test_the_default_segmenters_come_from_the_registry() -> None:
    assert DEFAULTS == ("D", "unet_3d")
