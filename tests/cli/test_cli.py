"""Commands that no other test covers."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from medsam2_atlas.base import device as device_module
from medsam2_atlas.cli import app, doctor
from medsam2_atlas.dicom import read_rtstruct, read_seg
from medsam2_atlas.imaging.volume import read_volume, write_volume
from medsam2_atlas.segmenters.registry import FAMILIES, vocabulary
from medsam2_atlas.segmenters.strategies import STRATEGIES
from series_files import upright, write_series


def test_doctor_reports_each_missing_part_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDSAM2_ATLAS_MODELS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("MEDSAM2_ATLAS", raising=False)
    done = CliRunner().invoke(app, ["doctor", "--dicomweb", "http://127.0.0.1:9/dicom-web"])
    assert done.exit_code == 1
    for words in ("atlas build", "not reachable", "demo weights", "monailabel", "0.8.5"):
        assert words in done.output.replace("\n", " ")


def test_doctor_accepts_an_atlas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, atlas_folder: Path) -> None:
    monkeypatch.setenv("MEDSAM2_ATLAS_MODELS", str(tmp_path))
    done = CliRunner().invoke(app, ["doctor", "--atlas", str(atlas_folder), "--dicomweb", "http://127.0.0.1:9/"])
    assert done.exit_code == 0


def test_doctor_checks_the_other_parts_if_one_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("driver and library differ")

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(doctor, "_device", broken)
    done = CliRunner().invoke(app, ["doctor", "--dicomweb", "http://127.0.0.1:9/"])
    assert done.exit_code == 1
    for words in ("RuntimeError: driver and library differ", "weights", "DICOMweb"):
        assert words in done.output


def test_the_command_phantoms_writes_patients(tmp_path: Path) -> None:
    arguments = ["phantoms", "--count", "1", "--seed", "4", "--spacing", "9", "--hu-step", "2", str(tmp_path / "p")]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert [f.name for f in (tmp_path / "p" / "labels").iterdir()] == ["phantom-4-000.nii.gz"]


def test_atlas_info_and_scores_are_printed(atlas_folder: Path, target_files: object, tmp_path: Path) -> None:
    info = CliRunner().invoke(app, ["atlas", "info", str(atlas_folder)], catch_exceptions=False)
    assert "version" in info.output
    image = target_files.image  # type: ignore[attr-defined]
    arguments = ["atlas", "scores", str(image), "--atlas", str(atlas_folder), "-o", str(tmp_path / "s.npz")]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert (tmp_path / "s.npz").stat().st_size > 1000


def test_the_registry_lists_all_strategies() -> None:
    assert [name for name in vocabulary() if name in STRATEGIES] == list(STRATEGIES)
    named = {name for family in FAMILIES if family.source.startswith("strategies:") for name in family.names}
    assert named == set(STRATEGIES)


def test_serving_a_missing_folder_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["serve", str(tmp_path / "none")])
    assert "neither a folder nor a URL" in str(done.exception)


def test_each_root_is_passed_to_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, command: started.append(command))
    for name in ("studies", "one", "two", "a,b"):
        (tmp_path / name).mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    arguments = ["serve", str(tmp_path / "studies"), "--port", port]
    arguments += ["--root", str(tmp_path / "one"), "--root", str(tmp_path / "two")]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    (command,) = started
    assert command[command.index("server_roots") + 1] == f"{(tmp_path / 'one').resolve()},{(tmp_path / 'two').resolve()}"
    for name, problem in (("none", "not a folder"), ("a,b", "comma")):
        done = CliRunner().invoke(app, ["serve", str(tmp_path / "studies"), "--root", str(tmp_path / name)])
        assert problem in str(done.exception)


@pytest.mark.parametrize(
    ("device", "visible"),
    [
        (("--device", "cpu"), "-1"),
        (("--device", "cuda", "--conf", "device=cpu"), "-1"),
        (("--device", "auto"), "0,1"),
        (("--device", "cuda:1"), "0,1"),
    ],
)
def test_a_server_on_the_cpu_sees_no_gpu(
    device: tuple[str, ...], visible: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(os, "execv", lambda *_: None)
    monkeypatch.setattr(device_module, "pick_device", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    CliRunner().invoke(app, ["serve", str(tmp_path), "--port", port, *device], catch_exceptions=False)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.parametrize(("kind", "modality"), [("seg", "SEG"), ("rtstruct", "RTSTRUCT")])
def test_commands_write_label_maps_as_dicom_objects(kind: str, modality: str, tmp_path: Path) -> None:
    array = np.random.default_rng(3).integers(-1000, 1000, (6, 20, 24))
    write_series(tmp_path / "series", upright(array))
    labels = np.zeros(array.shape, np.uint8)
    labels[2:4, 5:9, 5:9] = 6
    image = read_volume(tmp_path / "series")
    write_volume(image.with_array(labels), tmp_path / "label.nii.gz")
    arguments = ["dicom", kind, str(tmp_path / "label.nii.gz"), str(tmp_path / "series"), str(tmp_path / "out.dcm")]
    assert CliRunner().invoke(app, [*arguments, "--made", "AUTOMATIC"], catch_exceptions=False).exit_code == 0
    ds = pydicom.dcmread(tmp_path / "out.dcm")
    assert ds.Modality == modality
    read = read_seg if kind == "seg" else read_rtstruct
    assert (read(ds, tmp_path / "series") == labels).all()
    assert CliRunner().invoke(app, [*arguments, "--made", "x"]).exit_code == 2
