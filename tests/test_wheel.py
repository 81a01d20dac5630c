"""A wheel that is installed outside of the checkout has a working command line and server.

The wheel's environment contains the packages of this one, except this project and the packages that the wheel bundles.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import requests

from waiting import until

PROJECT = Path(__file__).parents[1]
BUILT_FROM = ("lib", "apps", "configs", "weights", "sample-data", "requirements")
HIDDEN = ("medsam2_atlas", "__editable__", "monailabel", "sam2", "pydicom_seg", "training", "tests")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns an environment into which only the wheel was installed."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"  # not the checkout, whose build/ may contain files of an older build
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, check=True, text=True).stdout
    for file in map(Path, listed.splitlines()):
        if (len(file.parts) == 1 or file.parts[0] in BUILT_FROM) and (PROJECT / file).is_file():
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            (source / file).symlink_to(PROJECT / file)
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", work, source], check=True)
    (wheel,) = work.glob("*.whl")
    venv.create(work / "env", symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(work / "env")}))
    for item in Path(sysconfig.get_path("purelib")).iterdir():
        if not item.name.startswith(HIDDEN):
            (packages / item.name).symlink_to(item)
    python = work / "env" / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    return work / "env"


def run(environment: Path, folder: Path, *command: str, **variables: str) -> str:
    """Runs a program of the environment in a folder, with the variables of a user's shell; returns its output."""
    own = {"PATH": f"{environment / 'bin'}:/usr/bin:/bin", "HOME": str(folder), "TERM": "dumb", **variables}
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return done.stdout


def files(environment: Path) -> set[Path]:
    return {file for file in environment.rglob("*") if "__pycache__" not in file.parts}


def test_the_command_line_works_in_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    assert run(environment, tmp_path, "medsam2-atlas", "version").startswith("0.")
    where = run(environment, tmp_path, "python", "-c", "import medsam2_atlas, sam2; print(sam2.__file__)")
    assert where.startswith(f"{environment}/") and "bundled" in where
    for name in ("sample-data/references", "sample-data/targets", "apps/demo.py", "apps/practice.py"):
        code = f"from medsam2_atlas.base.resource import resource; print(resource({name!r}))"
        assert run(environment, tmp_path, "python", "-c", code).startswith(f"{environment}/")
    code = "from medsam2_atlas.medsam2 import find_checkpoint; print(find_checkpoint())"
    demo = run(environment, tmp_path, "python", "-c", code)
    assert "fits" in run(environment, tmp_path, "medsam2-atlas", "weights", "check", demo.strip())
    assert not [*tmp_path.iterdir()]


def test_the_server_works_and_does_not_change_the_installation(environment: Path, tmp_path: Path) -> None:
    before = files(environment)
    studies = tmp_path / "studies"
    studies.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    own = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [environment / "bin" / "medsam2-atlas", "serve", studies, "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=own, stdout=log, stderr=log)

    def answers() -> bool:
        assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
        try:
            return requests.get(f"{url}/healthz", timeout=1).ok
        except OSError:
            return False

    try:
        until(answers, 120)
        assert {"medsam2", "unet_3d"} <= set(requests.get(f"{url}/info/", timeout=30).json()["models"])
        assert "OHIF" in requests.get(f"{url}/ohif/", timeout=30).text
        assert requests.get(f"{url}/logs/", timeout=30).text.count("\n") > 1
        # MONAI Label starts training and scoring as separate processes, which inherit the server's variables.
        variables = Path(f"/proc/{server.pid}/environ").read_text().split("\0")
        inherited = dict(entry.split("=", 1) for entry in variables if "=" in entry)
        code = "import monailabel.interfaces.utils.app, monailabel.datastore.dicom, pydicom_seg; print(pydicom_seg.__file__)"
        path = run(environment, tmp_path, "python", "-c", code, PYTHONPATH=inherited["PYTHONPATH"])
        assert path.splitlines()[-1].startswith(f"{environment}/")
    finally:
        server.terminate()
        server.wait(timeout=60)
    assert files(environment) == before
    assert (tmp_path / ".local/state/medsam2_atlas" / f"server-{port}" / "logs" / "app.log").is_file()
