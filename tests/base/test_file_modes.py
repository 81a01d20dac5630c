"""Files of studies are never open to other users of the machine, and open to a group only if the operator chose it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from medsam2_atlas.base.file_modes import apply_modes, file_mode, follow, is_for_group, set_umask


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> set[str]:
    return {oct(path.stat().st_mode & 0o7777) for path in (folder, *folder.rglob("*"))}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / ".medsam2_atlas"
    (folder / "versions" / "a").mkdir(parents=True)
    (folder / "versions" / "a" / "1.nii.gz").touch()
    return folder


def test_open_files_of_earlier_versions_are_closed_to_others(work: Path) -> None:
    assert modes(work) == {"0o755", "0o644"}
    assert apply_modes(work, for_group=False) == 4
    assert modes(work) == {"0o700", "0o600"}
    assert apply_modes(work, for_group=False) == 0


def test_a_group_gets_the_rights_of_the_owner_in_new_files_too(work: Path) -> None:
    assert not is_for_group(work)
    apply_modes(work, for_group=True, group=os.getgid())
    assert modes(work) == {"0o2770", "0o660"}
    assert is_for_group(work)
    follow(work)
    (work / "new").mkdir()
    (work / "new" / "file").touch()
    assert modes(work) == {"0o2770", "0o660"}
    apply_modes(work, for_group=False)
    assert modes(work) == {"0o700", "0o600"}


def test_commands_write_files_for_the_owner_only_unless_the_folder_is_for_a_group(work: Path) -> None:
    for folder in (work, work / "missing"):
        os.umask(0o022)
        follow(folder)
        (work / f"of-{folder.name}").touch()
        assert (work / f"of-{folder.name}").stat().st_mode & 0o777 == 0o600
        assert file_mode(folder) == 0o600
    work.chmod(0o775)  # a default umask of 002 creates such folders, without any choice of the operator
    assert not is_for_group(work)


def test_files_of_other_users_are_not_changed(work: Path, tmp_path: Path) -> None:
    own = tmp_path / "image.nii.gz"
    own.touch()
    (work / "link").symlink_to(own)
    (work / "linked folder").symlink_to(tmp_path)
    os.link(own, work / "second name")
    if os.getuid() == 0:
        os.chown(work / "versions" / "a" / "1.nii.gz", 12345, -1)
    apply_modes(work, for_group=False)
    assert own.stat().st_mode & 0o777 == 0o644
    if os.getuid() == 0:
        assert (work / "versions" / "a" / "1.nii.gz").stat().st_mode & 0o777 == 0o644


def test_a_read_only_file_stays_read_only(work: Path) -> None:
    (work / "fixed").touch(0o444)
    apply_modes(work, for_group=True)
    assert (work / "fixed").stat().st_mode & 0o777 == 0o440


def test_child_processes_inherit_the_modes(work: Path) -> None:
    import subprocess

    set_umask(for_group=False)
    subprocess.run(["touch", str(work / "made by a child")], check=True)
    assert (work / "made by a child").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="only root works in folders of others")
def test_root_is_warned_that_the_server_cannot_read_its_files(work: Path, caplog: pytest.LogCaptureFixture) -> None:
    follow(work)
    assert not caplog.records
    os.chown(work, 12345, -1)
    follow(work)
    assert "Run this as that user" in caplog.text
