"""The locks hold what the project asks for, with hashes; an unsupported Python is told in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1]
LOCKS = PROJECT / "requirements"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def locked(*names: str) -> list[Requirement]:
    lines = "".join((LOCKS / f"{name}.txt").read_text().replace("\\\n", "") for name in names).splitlines()
    return [Requirement(line.split(" --hash")[0]) for line in lines if not line.startswith(("#", "--"))]


def asked() -> list[Requirement]:
    """What `pyproject.toml` asks for; read without a TOML parser, which Python 3.10 lacks."""
    text = (PROJECT / "pyproject.toml").read_text()
    table = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert table
    return [Requirement(found) for found in re.findall(r'"([^"]+)"', re.sub(r"#.*", "", table[1]))]


@pytest.mark.parametrize("torch", ["torch-cpu", "torch-cuda"])
@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_gets_one_version_of_everything_asked_for(python: str, torch: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    found: dict[str, str] = {}
    for requirement in locked("common", "bundled", torch):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name, (version,) = canonicalize_name(requirement.name), requirement.specifier
            assert name not in found
            found[name] = version.version
    assert len(asked()) > 40
    for requirement in asked():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.specifier.contains(found[canonicalize_name(requirement.name)]), requirement
    assert {"monailabel", "sam2"} <= set(found)


@pytest.mark.parametrize("name", ["common", "torch-cpu", "torch-cuda", "bundled", "dev"])
def test_everything_locked_has_a_hash(name: str) -> None:
    lines = [line for line in (LOCKS / f"{name}.txt").read_text().replace("\\\n", "").splitlines() if "==" in line]
    assert lines
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}( |$)", line) for line in lines)


def test_no_cuda_comes_with_the_cpu_build() -> None:
    names = {requirement.name for requirement in locked("common", "torch-cpu", "bundled", "dev")}
    assert {name for name in names if name.startswith(("nvidia", "cuda", "triton"))} == {"nvidia-ml-py"}


def test_no_package_is_locked_that_costs_every_process_seconds_and_does_nothing_here() -> None:
    names = {canonicalize_name(requirement.name) for requirement in locked("common", "torch-cpu", "bundled", "dev")}
    assert "jsonschema" in names  # MONAI imports it, and it imports this one for the format of an address, if it is there
    assert "rfc3987-syntax" not in names


def test_the_sbom_lists_what_runs_and_not_what_tests(tmp_path: Path) -> None:
    target = tmp_path / "dist" / "sbom.cdx.json"
    subprocess.run([sys.executable, str(LOCKS / "sbom.py"), str(target)], check=True, capture_output=True)
    bill = json.loads(target.read_text())
    found = {item["name"].lower(): item["version"] for item in bill["components"]}
    assert {"monailabel", "sam2", "torch", "monai", "pydicom", "cryptography"} <= set(found)
    assert not {"pytest", "ruff", "playwright", "pip"} & set(found)
    assert bill["metadata"]["component"]["name"] == "medsam2-atlas"
    assert found["sam2"] == "1.1.0"
    assert [*target.parent.iterdir()] == [target]


@pytest.mark.parametrize(
    ("version", "fits"), [("2, 7", False), ("3, 9", False), ("3, 10", True), ("3, 14", True), ("3, 15", False)]
)
def test_a_python_that_is_too_old_or_too_new_is_told_in_one_line(version: str, fits: bool) -> None:
    script = LOCKS / "check_python.py"
    code = f"import sys; sys.version_info = ({version}, 0); __file__ = {str(script)!r}; exec(open(__file__).read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is fits
    assert len(done.stderr.splitlines()) == (0 if fits else 1)
    assert fits or "needs Python 3.10 to 3.14" in done.stderr


def test_make_stops_before_it_installs_into_an_unsupported_python(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\necho "medsam2_atlas needs another" >&2\nexit 1\n')
    old.chmod(0o755)
    command = ["make", "demo", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.startswith("medsam2_atlas needs another\n")
    assert not (tmp_path / "venv").exists()
