"""Temporary files of killed processes are removed; all other files are kept."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from medsam2_atlas.base.processes import ProcessMark
from medsam2_atlas.base.scratch import scratch_file, scratch_folder, sweep, sweep_leftovers

DAYS_AGO = time.time() - 3 * 24 * 3600


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def dead_mark() -> ProcessMark:
    """Returns the mark of a process that has ended."""
    code = "from medsam2_atlas.base.processes import ProcessMark; print(ProcessMark.own())"
    mark = ProcessMark.parse(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True).stdout.strip())
    assert mark is not None
    return mark


def test_files_of_a_killed_process_are_removed(temporary: Path) -> None:
    mark = dead_mark()
    own = scratch_file(".nii.gz")
    (temporary / f"medsam2_atlas-{mark}-abc.nii.gz").write_bytes(b"x")
    left = temporary / f"medsam2_atlas-{mark}-folder"
    left.mkdir()
    (left / "image.nii.gz").write_bytes(b"x")
    with scratch_folder() as folder:
        assert sweep() == 2
        assert own.exists()
        assert folder.is_dir()
    assert list(temporary.iterdir()) == [own]


def test_a_process_does_not_own_the_files_of_an_earlier_one_with_its_id(temporary: Path) -> None:
    own = ProcessMark.own()
    assert own.alive
    assert not ProcessMark(own.namespace, own.number, own.ticks - 1).alive
    (temporary / f"medsam2_atlas-{ProcessMark(own.namespace, own.number, own.ticks - 1)}-abc").write_bytes(b"x")
    assert sweep() == 1


def test_a_zombie_does_not_count_as_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    time.sleep(0.05)
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    mark = ProcessMark(ProcessMark.own().namespace, process.pid, int(fields[19]))
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert not mark.alive
    process.wait()


def test_files_of_another_container_are_kept_for_a_day(temporary: Path) -> None:
    mark = ProcessMark(1, 1, 1)
    young, old = (temporary / f"medsam2_atlas-{mark}-{name}" for name in ("young", "old"))
    for file in (young, old):
        file.write_bytes(b"x")
    os.utime(old, (DAYS_AGO, DAYS_AGO))
    assert sweep() == 1
    assert young.exists()


def test_files_of_other_users_and_targets_of_links_are_kept(temporary: Path, tmp_path: Path) -> None:
    mark = dead_mark()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "label.nii.gz").write_bytes(b"x")
    (temporary / f"medsam2_atlas-{mark}-link").symlink_to(precious)
    inside = temporary / f"medsam2_atlas-{mark}-folder"
    inside.mkdir()
    (inside / "link").symlink_to(precious)
    foreign = temporary / f"medsam2_atlas-{mark}-foreign"
    foreign.write_bytes(b"x")
    os.chown(foreign, 65534, 65534) if os.getuid() == 0 else foreign.unlink()
    persons = ("medsam2_atlas-0.8-source", "medsam2_atlas-mystudy", "medsam2_atlas_x", "other")
    for name in persons:
        (temporary / name).mkdir()
        (temporary / name / "notes.txt").write_text("a person's")
        os.utime(temporary / name, (DAYS_AGO, DAYS_AGO))
    sweep()
    assert (precious / "label.nii.gz").exists()
    assert not inside.exists()
    assert foreign.exists() or os.getuid() != 0
    assert all(
        (temporary / n).exists() for n in ("medsam2_atlas-0.8-source", "medsam2_atlas-mystudy", "medsam2_atlas_x", "other")
    )


def test_files_of_earlier_versions_are_removed_after_a_day(temporary: Path) -> None:
    for name, old in (("medsam2_atlas-ab12_xyz.nii.gz", True), ("medsam2_atlas-zz12_xyz.bin", False)):
        (temporary / name).write_bytes(b"x")
        if old:
            os.utime(temporary / name, (DAYS_AGO, DAYS_AGO))
    folder = temporary / "medsam2_atlas-ab12_xyz"
    (folder / "series").mkdir(parents=True)
    os.utime(folder, (DAYS_AGO, DAYS_AGO))
    assert sweep() == 2
    assert list(temporary.iterdir()) == [temporary / "medsam2_atlas-zz12_xyz.bin"]


def test_unfinished_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    work = tmp_path / "work"
    (work / "versions").mkdir(parents=True)
    (work / "link").symlink_to(outside)
    kept = [work / ".part-12345678.nii.gz", work / "versions/label.nii.gz", work / ".partial", outside / ".part-87654321"]
    gone = [work / ".part-abcdef01.nii.gz", work / "versions/.part-abcdef02", work / "versions/.old-abcdef03"]
    for file in [*kept, *gone]:
        file.write_bytes(b"x")
        os.utime(file, (DAYS_AGO, DAYS_AGO))
    os.utime(kept[0])
    (work / ".part-0a0b0c0d").mkdir()  # the folder is old, but its content is young
    (work / ".part-0a0b0c0d/slice").write_bytes(b"x")
    os.utime(work / ".part-0a0b0c0d", (DAYS_AGO, DAYS_AGO))
    assert sweep_leftovers(work, recursive=True) == 3
    assert all(file.exists() for file in kept)
    assert not any(file.exists() for file in gone)
    assert (work / ".part-0a0b0c0d/slice").exists()


def test_a_half_replaced_folder_of_a_killed_process_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = tmp_path / "work"
    kept = [work / ".old-abcdef01/slice", work / ".part-abcdef02/slice"]
    gone = [work / ".part-abcdef03.nii.gz", work / "finished/.old-abcdef04/slice", work / "unfinished/.part-abcdef05/slice"]
    for file in [*kept, *gone]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
        os.utime(file, (DAYS_AGO, DAYS_AGO))
        os.utime(file.parent, (DAYS_AGO, DAYS_AGO))
    os.utime(kept[1].parent)  # old content may be older than the new one: both are kept
    assert sweep_leftovers(work, recursive=True) == 3
    assert all(file.exists() for file in kept)
    assert not any(file.exists() for file in gone)
    assert [record.args[0] for record in caplog.records if record.args] == [kept[0].parent]
