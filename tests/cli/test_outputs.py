"""Commands refuse outputs that cannot be written, before they start their work."""

from __future__ import annotations

import inspect
import os
import shutil
from pathlib import Path
from typing import get_type_hints

import pytest
from typer.testing import CliRunner

from command_lines import labelled_studies
from commands_page import commands
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.cli import app, outputs, weights
from medsam2_atlas.cli.outputs import DICOM, JSON, PNG, WEIGHTS, check_files, check_folder
from medsam2_atlas.imaging.kinds import SUFFIXES

SEGMENT = ["segment", "CT", "-o", "l.nii.gz"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes commands run in a folder with only the folders `folder` and `images` and a file `file`; inputs do not exist."""
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "images"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    return tmp_path


def refused(arguments: list[str]) -> str:
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, InputError), (done.output, done.exception)
    return str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["segment", "CT", "-o", "out.txt"], "out.txt"),
        (["segment", "CT", "-o", "out.NII.GZ"], "out.NII.GZ"),
        (["segment", "CT", "-o", "out.mhd"], "out.mhd"),
        (["segment", "CT", "-o", "out"], "out"),
        ([*SEGMENT, "--report", "r.txt"], "r.txt"),
        ([*SEGMENT, "--preview", "p.jpg"], "p.jpg"),
        (["propagate", "CT", "--prompts", "p.json", "--logits", "l.npy"], "l.npy"),
        (["atlas", "scores", "CT", "--atlas", "A", "-o", "s.nii.gz"], "s.nii.gz"),
        (["dicom", "seg", "L", "SERIES", "out.nii.gz"], "out.nii.gz"),
        (["dicom", "rtstruct", "L", "SERIES", "out.txt"], "out.txt"),
        (["weights", "fetch", "-o", "weights.zip"], "weights.zip"),
        (["train", "unet", "CASES", "run", "--half", "half.json"], "half.json"),
        (["train", "demo", "demo.nii.gz"], "demo.nii.gz"),
    ],
)
def test_an_unsuitable_suffix_is_refused(arguments: list[str], output: str) -> None:
    message = refused(arguments)
    assert message.startswith(f"{output}: cannot be written")
    assert "End its name in ." in message


FILES = {
    ("segment", "out"): ["segment", "CT", "-o", "{}.nii.gz"],
    ("segment", "report"): [*SEGMENT, "--report", "{}.json"],
    ("segment", "preview"): [*SEGMENT, "--preview", "{}.png"],
    ("propagate", "logits"): ["propagate", "CT", "--prompts", "p.json", "--logits", "{}.npz"],
    ("check", "report"): ["check", "file", "--report", "{}.json"],
    ("studies verify", "report"): ["studies", "verify", "STUDIES", "--report", "{}.json"],
    ("atlas scores", "out"): ["atlas", "scores", "CT", "--atlas", "A", "-o", "{}.npz"],
    ("dicom seg", "out"): ["dicom", "seg", "L", "SERIES", "{}.dcm"],
    ("dicom rtstruct", "out"): ["dicom", "rtstruct", "L", "SERIES", "{}.dcm"],
    ("train unet", "half"): ["train", "unet", "CASES", "run", "--half", "{}.pt"],
    ("train demo", "out"): ["train", "demo", "{}.pt"],
}
"""A command line for each parameter that names a file to write. Its inputs do not exist, so outputs are checked first."""

FOLDERS = {
    ("phantoms", "out"): ["phantoms", "{}"],
    ("compare", "out"): ["compare", "STUDIES", "-o", "{}"],
    ("evaluate", "out"): ["evaluate", "--images", "images", "--labels", ".", "-o", "{}"],
    ("atlas build", "out"): ["atlas", "build", "REFS", "{}"],
    ("data prepare", "out"): ["data", "prepare", "LAYOUT", "DIR", "{}"],
    ("demo", "out"): ["demo", "{}"],
    ("batch", "out"): ["batch", "images", "{}", "--atlas", "A"],
    ("train unet", "run"): ["train", "unet", "CASES", "{}"],
    ("train demo", "cache"): ["train", "demo", "out.pt", "--cache", "{}"],
    ("studies backup", "dest"): ["studies", "backup", "STUDIES", "{}"],
    ("studies restore", "studies"): ["studies", "restore", "DEST", "{}"],
}
"""A command line for each parameter that names a folder to write to."""

TESTED_ELSEWHERE = {
    ("weights fetch", "out"): "its folder is created",
    ("labels export", "out"): "its suffix depends on the stored file",
    ("thresholds", "atlas"): "is input and output",
    ("tokens add", "file"): "is changed by adding a line, without work before it",
}
"""Further parameters that name something to write, with the reasons why they are not in the tables above."""

INPUTS = {
    *("image", "images", "label", "labels", "truth", "references", "series", "cases", "source", "studies", "folder", "path"),
    *("atlas", "checkpoint", "unet_weights", "unet", "start", "prompts", "mask", "tokens", "root", "tls"),
    *(("weights check", "file"), ("viewer install", "file"), ("tokens check", "file")),
    *(("cluster script", "file"), ("studies restore", "dest"), ("studies snapshots", "dest")),
}
"""Names of the parameters that name a file or folder to read; with its command, if the name has both meanings."""


def test_every_parameter_that_names_a_file_or_folder_is_known_as_input_or_output() -> None:
    """A new output belongs in one of the tables above, so that these tests cover it."""
    outputs, unknown = {*FILES, *FOLDERS, *TESTED_ELSEWHERE}, []
    for name, command in commands():
        for parameter, kind in get_type_hints(inspect.unwrap(command.callback)).items():
            key = (name.removeprefix("medsam2-atlas "), parameter)
            if "Path" in str(kind) and not {key, parameter} & {*outputs, *INPUTS}:
                unknown.append(key)
    assert not unknown


def test_the_tables_contain_only_parameters_that_exist() -> None:
    hints = {name.removeprefix("medsam2-atlas "): get_type_hints(inspect.unwrap(one.callback)) for name, one in commands()}
    for command, parameter in (*FILES, *FOLDERS, *TESTED_ELSEWHERE, *(key for key in INPUTS if isinstance(key, tuple))):
        assert parameter in hints[command], (command, parameter)


@pytest.mark.parametrize("command", FILES.values(), ids=" ".join)
def test_an_output_with_a_suffix_of_another_format_is_refused(command: list[str]) -> None:
    assert "End its name in ." in refused([part.format("out") + ".txt" if "{}" in part else part for part in command])


@pytest.mark.parametrize("command", FILES.values(), ids=" ".join)
def test_a_file_whose_folder_does_not_exist_is_refused(command: list[str]) -> None:
    message = refused([part.format("none/out") for part in command])
    assert "cannot be written: its folder does not exist" in message
    assert "Create none first" in message
    assert "is not a folder" in refused([part.format("file/out") for part in command])


@pytest.mark.parametrize("command", FILES.values(), ids=" ".join)
def test_a_folder_is_refused_as_an_output_file(command: list[str]) -> None:
    for suffix in (".nii.gz", ".json", ".png", ".npz", ".dcm", ".pt"):
        Path(f"out{suffix}").mkdir()
    assert "is a folder" in refused([part.format("out") for part in command])


@pytest.mark.parametrize("command", [*FILES.values(), ["weights", "fetch", "-o", "{}.pt"]], ids=" ".join)
def test_an_output_file_in_an_unwritable_folder_is_refused(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.access  # replaced, because permissions do not stop root from writing
    monkeypatch.setattr(outputs.os, "access", lambda path, mode: Path(path).name != "folder" and allowed(path, mode))
    assert "may not write into" in refused([part.format("folder/out") for part in command])


@pytest.mark.parametrize("command", FOLDERS.values(), ids=" ".join)
def test_a_file_is_refused_as_an_output_folder(command: list[str]) -> None:
    assert "is a file" in refused([part.format("file") for part in command])
    assert "file" in refused([part.format("file/out") for part in command])


@pytest.mark.parametrize("command", FOLDERS.values(), ids=" ".join)
def test_an_output_folder_that_cannot_be_created_or_written_to_is_refused(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = os.access
    monkeypatch.setattr(outputs.os, "access", lambda path, mode: Path(path).name != "folder" and allowed(path, mode))
    assert "may not write into" in refused([part.format("folder/out") for part in command])


def test_a_folder_that_is_not_an_atlas_is_not_replaced() -> None:
    Path("folder/something").touch()
    done = CliRunner().invoke(app, ["atlas", "build", "REFS", "folder"])
    assert isinstance(done.exception, MedSAM2AtlasError)
    assert "is not an atlas" in str(done.exception)
    assert "its folder does not exist" in refused(["atlas", "build", "REFS", "none/atlas"])


def test_thresholds_need_a_writable_folder_around_the_atlas(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder/atlas").mkdir()
    allowed = os.access
    monkeypatch.setattr(outputs.os, "access", lambda path, mode: Path(path).name != "folder" and allowed(path, mode))
    assert "may not write into" in refused(["thresholds", "folder/atlas"])


def test_an_input_is_not_overwritten(place: Path) -> None:
    ct = place / "ct.nii.gz"
    ct.touch()
    Path("link.nii.gz").symlink_to(ct)
    for out in ("ct.nii.gz", str(ct), "folder/../ct.nii.gz", "link.nii.gz"):
        assert "is also an input" in refused(["segment", "ct.nii.gz", "-o", out])
    shutil.copy(ct, "label.dcm")
    assert "is also an input" in refused(["dicom", "seg", "label.dcm", "SERIES", "label.dcm"])


def test_two_outputs_need_two_files() -> None:
    with pytest.raises(InputError, match="two outputs"):
        check_files((Path("a.json"), JSON), (Path("folder/../a.json"), JSON))


def test_the_viewer_is_not_unpacked_if_it_cannot_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAM2_ATLAS_VIEWER", "file")
    assert "is a file" in refused(["viewer", "install", "file"])


def test_a_device_is_not_replaced_by_a_file() -> None:
    os.mkfifo("pipe.json")
    assert "not a regular file" in refused([*SEGMENT, "--report", "pipe.json"])


def test_a_name_that_is_too_long_is_refused() -> None:
    assert "cannot be written (File name too long)" in refused(["segment", "CT", "-o", "x" * 300 + ".nii.gz"])
    assert "cannot be written (File name too long)" in refused(["phantoms", "x" * 300])


@pytest.mark.parametrize("name", ["out.dcm", "OUT", "1.2.840.113619.2.55", "out.dicom"])
def test_dicom_files_may_have_no_suffix(name: str) -> None:
    check_files((Path(name), DICOM))
    with pytest.raises(InputError, match="its suffix does not fit"):
        check_files((Path(f"{name}.png"), DICOM))


def test_outputs_that_can_be_written_are_accepted() -> None:
    for suffix in SUFFIXES:
        check_files((Path("folder") / f"l{suffix}", SUFFIXES), (Path("r.json"), JSON), (Path("p.png"), PNG), (None, PNG))
    Path("l.nii.gz").touch()
    check_files((Path("l.nii.gz"), SUFFIXES), inputs=(Path("file"), Path("folder"), None))
    check_files((Path("run/best/half.pt"), WEIGHTS), made=(Path("run/best"),))
    check_folder(Path("none/of/these"))
    check_folder(Path("atlas"), replaced=True)
    assert {file.name for file in Path().iterdir()} == {"folder", "images", "file", "l.nii.gz"}  # the checks create nothing


def test_fetching_weights_creates_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    targets: list[Path] = []

    def fetched(url: str, target: Path, progress: object) -> None:
        targets.append(target)
        target.write_bytes(b"weights")

    monkeypatch.setattr(weights, "download", fetched)
    monkeypatch.setattr(weights, "_fit", lambda file, config: None)
    assert CliRunner().invoke(app, ["weights", "fetch", "-o", "new/folder/w.pt"], catch_exceptions=False).exit_code == 0
    assert targets == [Path("new/folder/w.pt")]


def test_a_version_is_exported_with_its_own_suffix_only(place: Path) -> None:
    labelled_studies(place / "studies", 1)
    arguments = ["labels", "export", "studies", "case-0", "1"]
    assert "End its name in .nii.gz" in refused([*arguments, "copy.nrrd"])
    assert "its folder does not exist" in refused([*arguments, "none/copy.nii.gz"])
    assert CliRunner().invoke(app, [*arguments, "copy.nii.gz"], catch_exceptions=False).exit_code == 0


def test_a_comparison_of_an_unknown_or_reference_strategy_is_refused() -> None:
    assert "is not a segmenter" in refused(["compare", "STUDIES", "--strategy", "Z"])
    assert "is not a segmenter" in refused(["compare", "STUDIES", "--strategy", "reference-1"])
