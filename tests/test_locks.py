"""The locks contain the project's requirements with hashes; an unsupported Python is reported in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from medsam2_atlas.base.card_problems import DRIVERS, OLDER_CUDA

PROJECT = Path(__file__).parents[1]
LOCKS = PROJECT / "requirements"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def locked(*names: str) -> list[Requirement]:
    lines = "".join((LOCKS / f"{name}.txt").read_text().replace("\\\n", "") for name in names).splitlines()
    return [Requirement(line.split(" --hash")[0]) for line in lines if not line.startswith(("#", "--"))]


def required() -> list[Requirement]:
    """Returns the requirements in `pyproject.toml`, without a TOML parser, which Python 3.10 lacks."""
    text = (PROJECT / "pyproject.toml").read_text()
    table = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert table
    return [Requirement(found) for found in re.findall(r'"([^"]+)"', re.sub(r"#.*", "", table[1]))]


@pytest.mark.parametrize("torch", ["torch-cpu", "torch-cuda"])
@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_gets_one_version_of_every_requirement(python: str, torch: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    found: dict[str, str] = {}
    for requirement in locked("common", "bundled", torch):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name, (version,) = canonicalize_name(requirement.name), requirement.specifier
            assert name not in found
            found[name] = version.version
    assert len(required()) > 40
    for requirement in required():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.specifier.contains(found[canonicalize_name(requirement.name)]), requirement
    assert {"monailabel", "sam2"} <= set(found)


@pytest.mark.parametrize("name", ["common", "torch-cpu", "torch-cuda", "bundled", "dev"])
def test_everything_locked_has_a_hash(name: str) -> None:
    lines = [line for line in (LOCKS / f"{name}.txt").read_text().replace("\\\n", "").splitlines() if "==" in line]
    assert lines
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}( |$)", line) for line in lines)


def test_the_cpu_build_installs_no_cuda_packages() -> None:
    names = {requirement.name for requirement in locked("common", "torch-cpu", "bundled", "dev")}
    assert {name for name in names if name.startswith(("nvidia", "cuda", "triton"))} == {"nvidia-ml-py"}


def test_no_slow_and_unused_package_is_locked() -> None:
    names = {canonicalize_name(requirement.name) for requirement in locked("common", "torch-cpu", "bundled", "dev")}
    assert "jsonschema" in names  # MONAI imports it, and it imports rfc3987-syntax if that is installed
    assert "rfc3987-syntax" not in names


def test_the_sbom_lists_packages_that_run_and_not_those_for_tests(tmp_path: Path) -> None:
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
def test_an_unsupported_python_is_reported_in_one_line(version: str, fits: bool) -> None:
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


def test_the_page_about_gpus_names_the_locked_pytorch() -> None:
    versions = {item.name: str(item.specifier).removeprefix("==") for item in locked("torch-cuda")}
    text = (PROJECT / "docs" / "gpu.md").read_text()
    cuda = ".".join(versions["cuda-toolkit"].split(".")[:2])
    assert f"PyTorch {versions['torch']} needs" in text
    assert f"| CUDA {cuda}, PyPI's" in text
    major = int(cuda.split(".")[0])
    assert re.search(rf"^\| CUDA {re.escape(cuda)}.*\| {DRIVERS[major]} or newer \|$", text, re.MULTILINE)
    assert f"torch=={versions['torch']}+{OLDER_CUDA} --index-url" in text


def planned(venv: Path, installed: str | None, driver: bool, *settings: str) -> str:
    """Returns the commands that `make install` would run.

    Args:
        venv: the environment.
        installed: the CUDA version in the installed torch as Python text, `None` in quotes for a CPU build; None for no torch.
        driver: whether `nvidia-smi` exists.
        settings: variables for make.
    """
    if installed is not None:
        about = venv / "lib/python3.11/site-packages/torch/version.py"
        about.parent.mkdir(parents=True)
        about.write_text(f"__all__ = ['cuda', 'hip']\ncuda: Optional[str] = {installed}\nhip: Optional[str] = None\n")
        (venv / ".installed").touch()
    programs = venv.parent / "programs"
    programs.mkdir()
    for name in ("sed", "sh", "grep", "expand", "python3", "make"):
        (programs / name).symlink_to(shutil.which(name) or name)
    if driver:
        (programs / "nvidia-smi").symlink_to(shutil.which("true") or "true")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "TORCH"))}
    environment["PATH"] = str(programs)
    command = ["make", "-n", "install", f"VENV={venv}", *settings]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("installed", "driver", "settings", "lock"),
    [
        (None, False, [], "torch-cpu"),
        (None, True, [], "torch-cuda"),
        (None, True, ["TORCH=cpu"], "torch-cpu"),
        ("'13.0'", False, ["TORCH=cpu"], "--force-reinstall -r requirements/torch-cpu"),
        ("None", False, ["TORCH=cuda"], "--force-reinstall -r requirements/torch-cuda"),
    ],
)
def test_make_installs_the_right_build_of_torch(
    installed: str | None, driver: bool, settings: list[str], lock: str, tmp_path: Path
) -> None:
    first = next(line for line in planned(tmp_path / "venv", installed, driver, *settings).splitlines() if "torch-" in line)
    assert f"{lock}.txt" in first
    assert ("--force-reinstall" in first) is (installed is not None)
    leaves_libraries = "uninstall" not in first
    assert leaves_libraries or {"nvidia-cudnn-cu13", "triton"} <= set(first.split())
    assert leaves_libraries is (installed != "'13.0'")


@pytest.mark.parametrize(("installed", "driver"), [("'13.0'", False), ("None", True)])
def test_make_keeps_the_build_of_torch_that_the_user_chose(installed: str, driver: bool, tmp_path: Path) -> None:
    assert "torch-" not in planned(tmp_path / "venv", installed, driver)
