"""The program works for a user without a name, a home or a folder for caches, as in a container."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.own_user import ensure_home, ensure_name, ensure_temp
from medsam2_atlas.base.resource import model_folder, state_folder

CACHES = ("XDG_CACHE_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "CUDA_CACHE_PATH", "MONAI_LABEL_SESSION_PATH")
NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
NOBODY = """
import getpass, os
from pathlib import Path
from medsam2_atlas.base.own_user import ensure_home, ensure_name
from medsam2_atlas.base.resource import model_folder
os.setgroups([])
os.setgid(54321)
os.setuid(54321)
print(model_folder())
ensure_name()
ensure_home()
print(getpass.getuser(), Path.home())
(Path.home() / "settings").touch()
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Removes all variables except that of the state folder; they are restored after the test."""
    for name in (*CACHES, *NAMES, "MEDSAM2_ATLAS_MODELS", "XDG_DATA_HOME", "XDG_STATE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it even if the test sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEDSAM2_ATLAS_STATE", str(tmp_path / "state"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_home_and_name_is_no_error() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not inside pytest's folder, which only root may enter
        os.chown(folder, 54321, 54321)
        environment = {name: value for name, value in os.environ.items() if name not in ("HOME", *NAMES)}
        environment["MEDSAM2_ATLAS_STATE"] = folder
        done = subprocess.run([sys.executable, "-c", NOBODY], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["/.local/share/medsam2_atlas/models", "user-54321", f"{folder}/home"]
        assert Path(folder, "home", "settings").stat().st_uid == 54321


def test_the_name_of_a_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "kim")
    ensure_name()
    assert getpass.getuser() == "kim"


def test_a_writable_home_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ensure_home()
    assert Path.home() == tmp_path
    assert not set(CACHES) & set(os.environ)


def test_caches_of_a_home_that_cannot_be_written_go_to_the_state_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MPLCONFIGDIR", "/elsewhere")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    ensure_home()
    assert Path.home() == tmp_path  # its settings are still read
    assert os.environ["MPLCONFIGDIR"] == "/elsewhere"
    assert all(Path(os.environ[name]).is_relative_to(tmp_path / "state") for name in CACHES if name != "MPLCONFIGDIR")


def test_a_home_that_does_not_exist_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    ensure_home()
    assert Path.home() == tmp_path / "state" / "home"
    assert Path.home().is_dir()


def test_the_named_temporary_folder_is_created_or_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ensure_temp()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "data" / "tmp"))
    ensure_temp()
    assert (tmp_path / "data" / "tmp").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file" / "tmp"))
    with pytest.raises(StorageError, match="cannot hold temporary files"):
        ensure_temp()


def test_named_folders_need_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless(_: type[Path]) -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", classmethod(homeless))
    monkeypatch.setenv("MEDSAM2_ATLAS_MODELS", str(tmp_path))
    assert (model_folder(), state_folder()) == (tmp_path, tmp_path / "state")
    monkeypatch.delenv("MEDSAM2_ATLAS_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert model_folder() == tmp_path / "medsam2_atlas" / "models"
