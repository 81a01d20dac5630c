"""Parsing, help, completion and the light commands import none of the libraries that take seconds to import.

The tests check the imports rather than the time, because imports are the same on any machine. `bench/startup.py` measures the
time.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from command_lines import COMPLETIONS, HEAVY, labelled_studies, run

_ALL_HELP = """
import json, sys
from typer.main import get_command
from typer.testing import CliRunner
from medsam2_atlas.cli import app
def helped(command, path):
    done = CliRunner().invoke(app, [*path, "--help"], catch_exceptions=False)
    assert done.exit_code == 0 and "Usage" in done.output, path
    yield " ".join(path)
    for name, inner in getattr(command, "commands", {}).items():
        yield from helped(inner, [*path, name])
print(json.dumps({"helped": list(helped(get_command(app), [])), "modules": list(sys.modules)}))
"""


def test_the_help_of_every_command_imports_no_heavy_library() -> None:
    done = subprocess.run([sys.executable, "-c", _ALL_HELP], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {"", "atlas", "atlas build", "segment", "labels list", "tokens add", "train unet", "weights fetch", "serve"} <= {
        *found["helped"]
    }
    assert not {*HEAVY, "numpy"} & {*found["modules"]}


def test_the_version_is_printed_without_a_heavy_library() -> None:
    ran = run(["version"])
    assert (ran.status, ran.heavy) == (0, [])
    assert ran.output.strip()


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("bash, medsam2-atlas <TAB>", ("atlas", "segment", "serve", "weights")),
        ("bash, atlas build --<TAB>", ("--missing", "--help")),
        ("zsh, segment --<TAB>", ("--segmenter", "--preview")),
        ("fish, train unet --<TAB>", ("--epochs", "--half")),
    ],
)
def test_shells_complete_without_a_heavy_library(shell: str, words: tuple[str, ...]) -> None:
    ran = run([], COMPLETIONS[shell])
    assert ran.status == 0
    assert all(word in ran.output for word in words)
    assert not {*HEAVY, "numpy"} & ran.modules


def test_label_maps_are_listed_exported_and_restored_without_a_heavy_library(tmp_path: Path) -> None:
    folder = labelled_studies(tmp_path / "studies")
    ran = run(["labels", "list", str(folder)], {"COLUMNS": "200"})
    assert ran.status == 0, ran.output
    assert "case-2" in ran.output
    assert "1 *" in ran.output
    assert ran.heavy == []
    ran = run(["labels", "export", str(folder), "case-0", "1", str(tmp_path / "copy.nii.gz")])
    assert (ran.status, ran.heavy) == (0, []), ran.output
    ran = run(["labels", "restore", str(folder), "case-0", "1"])
    assert ran.heavy == [], ran.output


def test_serve_imports_no_heavy_library_before_the_server_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = run(["serve", str(tmp_path), "--port", port])
    assert refused.status == 1
    assert f"127.0.0.1:{port}: is taken" in refused.output
    assert refused.heavy == []
    served = run(["serve", str(tmp_path), "--port", port], {"MEDSAM2_ATLAS_STATE": str(tmp_path / "state")})
    assert (served.status, served.heavy) == (0, []), served.output


def test_outputs_are_refused_before_a_heavy_library_is_imported(tmp_path: Path) -> None:
    ran = run(["segment", str(tmp_path / "ct.nii.gz"), "-o", str(tmp_path / "out.txt")])
    assert ran.status == 1
    assert "out.txt: cannot be written" in ran.output
    assert ran.heavy == []


@pytest.mark.parametrize(
    "command", [["segment", "ct.nii.gz", "-o", "out.nii.gz"], ["serve", "."], ["train", "unet", ".", "run"]]
)
def test_devices_are_refused_before_a_heavy_library_is_imported(command: list[str]) -> None:
    ran = run([*command, "--device", "mps"])
    assert ran.status == 1
    assert "'mps': is not a device" in ran.output
    assert ran.heavy == []


def test_the_doctor_names_libraries_that_cannot_be_imported() -> None:
    program = """
import sys
sys.modules["torch"] = None
sys.argv = ["medsam2-atlas", "doctor", "--dicomweb", "http://127.0.0.1:9/"]
from medsam2_atlas.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for words in ("device", "not checked", "torch", "make install", "DICOMweb"):
        assert words in done.stdout
