"""Each bad input causes a clear error that names the file, and no output file is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from typer.testing import CliRunner

from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.cli import app


def save(array: np.ndarray, file: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
    return file


def text(folder: Path) -> Path:
    (folder / "ct.nii.gz").write_text("not an image")
    return folder / "ct.nii.gz"


def plain_text(folder: Path) -> Path:
    (folder / "ct.nii").write_text("not an image")
    return folder / "ct.nii"


def two_dimensional(folder: Path) -> Path:
    return save(np.zeros((20, 20), np.int16), folder / "ct.nrrd")


def nan(folder: Path) -> Path:
    array = np.zeros((20, 20, 20), np.float32)
    array[3, 4, 5] = np.nan
    return save(array, folder / "ct.nii.gz")


def four_dimensional(folder: Path) -> Path:
    image = sitk.JoinSeries([sitk.GetImageFromArray(np.zeros((5, 6, 7), np.int16))] * 2)
    sitk.WriteImage(image, str(folder / "ct.nii.gz"))
    return folder / "ct.nii.gz"


def empty(folder: Path) -> Path:
    (folder / "ct.nii.gz").touch()
    return folder / "ct.nii.gz"


def one_value(folder: Path) -> Path:
    return save(np.zeros((20, 20, 20), np.int16), folder / "ct.nii.gz")


def one_slice(folder: Path) -> Path:
    return save(np.arange(400, dtype=np.int16).reshape(1, 20, 20), folder / "ct.nii.gz")


def truncated(folder: Path) -> Path:
    file = save(np.random.default_rng(0).integers(-1000, 1000, (20, 40, 40)).astype(np.int16), folder / "ct.nii.gz")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


def only_air(folder: Path) -> Path:
    array = np.full((40, 40, 40), -1000, np.int16)
    array[0, 0, 0] = -999
    return save(array, folder / "ct.nii.gz")


def too_short(folder: Path) -> Path:
    return save(np.random.default_rng(0).integers(-100, 100, (4, 90, 90)).astype(np.int16), folder / "ct.nii.gz")


def missing(folder: Path) -> Path:
    return folder / "ct.nii.gz"


def refused(arguments: list[str]) -> MedSAM2AtlasError:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, MedSAM2AtlasError), result.output
    return result.exception


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (text, "broken gzip"),
        (plain_text, "cannot be read as an image"),
        (two_dimensional, "2 dimensions"),
        (nan, "NaN"),
        (four_dimensional, "4 dimensions"),
        (empty, "0 bytes"),
        (one_value, "all voxels have one value"),
        (one_slice, "at least two slices"),
        (truncated, "broken gzip"),
        (only_air, "shows no body"),
        (too_short, "spans only"),
        (missing, "does not exist"),
    ],
)
def test_a_bad_image_is_reported_and_nothing_is_written(
    make: Callable[[Path], Path], words: str, tmp_path: Path, atlas_folder: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    file = make(tmp_path / "in")
    outputs = [tmp_path / "out" / name for name in ("label.nii.gz", "report.json", "preview.png")]
    error = refused(
        ["segment", str(file), "--atlas", str(atlas_folder), "--strategy", "atlas", "-o", str(outputs[0])]
        + ["--report", str(outputs[1]), "--preview", str(outputs[2])]
    )
    assert words in str(error)
    assert str(file) in str(error)
    assert list((tmp_path / "out").iterdir()) == []


def test_labels_that_do_not_match_their_image_are_refused_when_building(tmp_path: Path) -> None:
    (tmp_path / "refs" / "images").mkdir(parents=True)
    (tmp_path / "refs" / "labels").mkdir()
    body = np.random.default_rng(0).integers(0, 100, (40, 40, 40)).astype(np.int16)
    save(body, tmp_path / "refs" / "images" / "a.nii.gz")
    label = save(np.ones((30, 40, 40), np.uint8), tmp_path / "refs" / "labels" / "a.nii.gz")
    error = refused(["atlas", "build", str(tmp_path / "refs"), str(tmp_path / "atlas")])
    assert "a different grid" in str(error)
    assert str(label) in str(error)
    assert not (tmp_path / "atlas").exists()


def test_an_image_without_labels_is_refused_when_building(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    save(np.zeros((4, 4, 4), np.int16), tmp_path / "images" / "lonely.nii.gz")
    assert "lonely: labels/ has no file of that name" in str(
        refused(["atlas", "build", str(tmp_path), str(tmp_path / "atlas")])
    )


def test_an_atlas_of_another_label_set_is_refused(tmp_path: Path, atlas_folder: Path, target_files: object) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in atlas_folder.iterdir():
        if file.is_file():
            (other / file.name).write_bytes(file.read_bytes())
    about = json.loads((other / "atlas.json").read_text())
    about["organs"]["1"] = "thyroid"
    (other / "atlas.json").write_text(json.dumps(about))
    image = target_files.image  # type: ignore[attr-defined]
    error = refused(["segment", str(image), "--atlas", str(other), "--strategy", "atlas", "-o", str(tmp_path / "l.nii.gz")])
    assert "another organ table" in str(error)
    assert not (tmp_path / "l.nii.gz").exists()


@pytest.mark.parametrize("content", [b"a text file", b"", b"PK\x03\x04 a broken archive"])
def test_a_file_that_is_not_a_checkpoint_is_refused(
    content: bytes, tmp_path: Path, atlas_folder: Path, target_files: object
) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    image = target_files.image  # type: ignore[attr-defined]
    error = refused(
        ["segment", str(image), "--atlas", str(atlas_folder), "--checkpoint", str(tmp_path / "weights.pt")]
        + ["-o", str(tmp_path / "l.nii.gz")]
    )
    assert "weights.pt" in str(error)
    assert "not a PyTorch checkpoint" in str(error)
    assert not (tmp_path / "l.nii.gz").exists()


def test_a_checkpoint_without_weights_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    assert "state_dict" in str(refused(["weights", "check", str(tmp_path / "list.pt")]))


def test_only_reference_strategies_accept_a_ground_truth(tmp_path: Path, target_files: object) -> None:
    files = target_files
    arguments = ["segment", str(files.image), "-o", str(tmp_path / "l.nii.gz")]  # type: ignore[attr-defined]
    assert "reference" in str(refused([*arguments, "--strategy", "D", "--truth", str(files.label)]))  # type: ignore[attr-defined]
    assert "reference" in str(refused([*arguments, "--strategy", "reference-1"]))


def test_an_unknown_organ_is_refused_with_the_known_ones(tmp_path: Path, target_files: object) -> None:
    image = target_files.image  # type: ignore[attr-defined]
    error = refused(["segment", str(image), "--organs", "liver,heart", "-o", str(tmp_path / "l.nii.gz")])
    assert "heart" in str(error)
    assert "spleen" in str(error)


def test_the_command_prints_one_line_and_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medsam2_atlas", "atlas", "info", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "is not an atlas" in done.stderr
    assert "Traceback" not in done.stderr
