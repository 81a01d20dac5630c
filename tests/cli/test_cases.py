"""Commands that process many cases leave out unusable ones and list them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk
from typer.testing import CliRunner, Result

from blocks import LIVER, PATIENT, QUICK, labelled
from medsam2_atlas.atlas import options
from medsam2_atlas.audit.reading import LineQuery, lines
from medsam2_atlas.base.errors import AtlasError, InputError
from medsam2_atlas.cli import app
from medsam2_atlas.cli.cases import annotated_cases

_TINY = """
dimensions: 3
spacing: [8, 8, 8]
patch: [16, 16, 16]
filters: [4, 8, 16]
heads: 1
training: {epochs: 1, validate_every: 1}
"""


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Returns a folder with two usable pairs, and one pair for each reason why a pair cannot be used."""
    folder = tmp_path / "pairs"
    for name in ("a", "b", "broken", "lonely"):
        labelled(folder, name, PATIENT)
    labelled(folder, "empty", {}, seen=PATIENT)
    labelled(folder, "wild", {**PATIENT, 16: LIVER})
    labelled(folder, "shifted", PATIENT)
    labelled(folder, "shorter", PATIENT, z_from=2)
    shutil.move(folder / "labels" / "shorter.nii.gz", folder / "labels" / "shifted.nii.gz")
    (folder / "images" / "shorter.nii.gz").unlink()
    (folder / "labels" / "lonely.nii.gz").unlink()
    (folder / "images" / "broken.nii.gz").write_bytes(b"\x1f\x8b no image")
    labelled(folder, "unscaled", PATIENT)
    unscaled = folder / "images" / "unscaled.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(unscaled)) + 1000, str(unscaled))
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(options, "registration_config", lambda: QUICK)


BAD = {
    "broken": "broken.nii.gz",
    "empty": "contains no organ",
    "lonely": "labels/ has no file of that name",
    "shifted": "40 x 30 x 28 voxels instead of",
    "unscaled": "its values are 1000 too high for HU",
    "wild": "[16]",
}


def ran(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_listed(output: str) -> None:
    lines = output.splitlines()
    begin = next(n for n, line in enumerate(lines) if line == f"{len(BAD)} left out:")
    for line, (name, words) in zip(lines[begin + 1 :], BAD.items(), strict=False):
        assert line.startswith(f"  {name}: "), output
        assert words in line


def keep(folder: Path, *names: str) -> None:
    for file in [*folder.glob("*/*.nii.gz")]:
        if file.name.split(".")[0] not in names:
            file.unlink()


def test_building_an_atlas_leaves_out_pairs_that_cannot_be_used(pairs: Path, tmp_path: Path) -> None:
    done = ran("atlas", "build", pairs, tmp_path / "atlas")
    assert done.exit_code == 0, done.output
    assert_listed(done.output)
    assert "of 2 references written" in done.output
    corrected = ran("atlas", "build", "--hu", "auto", pairs, tmp_path / "corrected")
    assert f"{len(BAD) - 1} left out:" in corrected.output
    assert "of 3 references written" in corrected.output
    stopped = ran("atlas", "build", "--strict", pairs, tmp_path / "other")
    assert isinstance(stopped.exception, InputError)
    assert "lonely" in str(stopped.exception)
    keep(pairs, *BAD)
    none = ran("atlas", "build", pairs, tmp_path / "other")
    assert isinstance(none.exception, AtlasError)
    assert "no reference that can be used: broken: " in str(none.exception)
    assert not (tmp_path / "other").exists()


def test_training_leaves_out_pairs_that_cannot_be_used(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(_TINY)
    options = ("--config", tmp_path / "tiny.yaml", "--device", "cpu")
    done = ran("train", "unet", pairs, tmp_path / "run", *options)
    assert done.exit_code == 0, done.output
    assert_listed(done.output)
    assert (tmp_path / "run" / "best.pt").is_file()
    assert re.search(r"Energy: [\d.e-]+ Wh, [\d.e-]+ g CO2e \(CodeCarbon", done.output)
    stopped = ran("train", "unet", "--strict", pairs, tmp_path / "other", *options)
    assert "lonely" in str(stopped.exception)
    (pairs / "images" / "lonely.nii.gz").unlink()
    stopped = ran("train", "unet", "--strict", pairs, tmp_path / "other", *options)
    assert "broken: cannot be trained on" in str(stopped.exception)
    keep(pairs, "a", "b", "unscaled")
    stopped = ran("train", "unet", "--strict", pairs, tmp_path / "other", *options)
    assert "unscaled: cannot be trained on: " in str(stopped.exception)
    keep(pairs, "a", "unscaled")
    corrected = ran("train", "unet", "--strict", "--hu", "auto", pairs, tmp_path / "corrected", *options)
    assert corrected.exit_code == 0, corrected.output
    labelled(pairs, "wild", {**PATIENT, 16: LIVER})
    keep(pairs, "a", "wild")
    few = ran("train", "unet", pairs, tmp_path / "other", *options)
    assert isinstance(few.exception, InputError)
    assert "has one case that can be used" in str(few.exception)
    assert "  wild: " in few.output
    assert ran("train", "unet", pairs, tmp_path / "other", *options, "--validation-share", "0").exit_code == 0


def studies(pairs: Path, folder: Path) -> Path:
    (folder / "labels" / "final").mkdir(parents=True)
    for file in (pairs / "images").iterdir():
        shutil.copy(file, folder)
    for file in (pairs / "labels").iterdir():
        shutil.copy(file, folder / "labels" / "final")
    (folder / "b.nii.gz").unlink()
    return folder


def test_growing_an_atlas_leaves_out_labels_that_cannot_be_used(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSAM2_ATLAS_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("MEDSAM2_ATLAS", raising=False)
    folder = studies(pairs, tmp_path / "studies")
    done = ran("atlas", "grow", folder)
    assert done.exit_code == 0, done.output
    for name, words in {**BAD, "b": "no CT of that name"}.items():
        if name != "lonely":  # this study has no label map yet
            assert any(line.startswith(f"refused: {name}: ") and words in line for line in done.output.splitlines()), name
    assert "added: a" in done.output
    assert [line["action"] for line in lines(folder / ".medsam2_atlas", LineQuery())] == ["train.start"]
    stopped = ran("atlas", "grow", "--strict", folder)
    assert "no CT of that name" in str(stopped.exception)
    (folder / "labels" / "final" / "b.nii.gz").unlink()
    stopped = ran("atlas", "grow", "--strict", folder)
    assert isinstance(stopped.exception, InputError)
    assert "broken.nii.gz" in str(stopped.exception)
    for folder_of in (folder, folder / "labels" / "final"):
        for file in folder_of.glob("*.nii.gz"):
            if file.name.split(".")[0] not in ("a", "unscaled"):
                file.unlink()
    stopped = ran("atlas", "grow", "--strict", folder)
    assert "1000 too high" in str(stopped.exception)
    corrected = ran("atlas", "grow", "--strict", "--hu", "auto", folder)
    assert corrected.exit_code == 0, corrected.output
    assert "added: a, unscaled" in corrected.output


def test_training_on_a_studies_folder_lists_unusable_studies(pairs: Path, tmp_path: Path) -> None:
    folder = studies(pairs, tmp_path / "studies")
    (folder / "gone.nii.gz").symlink_to(folder / "nowhere.nii.gz")
    skipped: dict[str, str] = {}
    assert "b" not in {files.name for files in annotated_cases(folder, skipped)}
    assert "no CT of that name" in skipped["b"]
    assert "symbolic link" in skipped["gone"]
    with pytest.raises(InputError, match="gone"):
        annotated_cases(folder, None)


def test_a_comparison_without_usable_studies_is_refused(tmp_path: Path, atlas_folder: Path) -> None:
    folder = tmp_path / "studies"
    folder.mkdir()
    arguments = ("compare", folder, "-o", tmp_path / "out", "--strategy", "atlas", "--atlas", atlas_folder, "--device", "cpu")
    assert "contains no CTs" in str(ran(*arguments).exception)
    (folder / "broken.nii.gz").write_bytes(b"")
    done = ran(*arguments)
    assert "no study that can be compared: broken: " in str(done.exception)
    assert not (tmp_path / "out").exists()
    assert isinstance(ran(*arguments, "--strict").exception, InputError)
