"""Kills: a backup leaves a complete snapshot or none, and restores and verifications resume."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from archive import dying
from archive.test_backup import contents, objects
from medsam2_atlas.archive import Place, Vault, back_up, restore, verify, verify_backup
from storage.test_kills import run
from storage.test_store import ct


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medsam2_atlas.archive", "medsam2_atlas.storage"])
    return context


@pytest.mark.parametrize(
    "step", [1, 4, 9, 20, 33, *range(42, 58, 3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(60))]
)
def test_a_killed_backup_leaves_only_complete_snapshots_and_the_next_one_resumes(
    processes: ForkServerContext, place: Place, folder: Path, tmp_path: Path, step: int
) -> None:
    dest = tmp_path / "dest"
    first = back_up(place, dest).snapshot.name if step % 2 else ""
    if first:
        ct(folder, "c")
    received = run(processes, dying.back_up_and_die_at, folder, dest, step)
    names, before = Vault.existing(dest).names() if (dest / "backup.json").exists() else [], objects(dest)
    assert set(received) <= set(names)
    for name in names:
        assert restore(dest, Place.of(str(tmp_path / name)), when=name).damaged == {}
    made = back_up(place, dest)
    assert made.added == len(objects(dest) - before)
    assert verify_backup(dest).sound
    assert not list(dest.rglob(".part-*"))
    back = Place.of(str(tmp_path / "back"))
    restore(dest, back)
    assert contents(back.root) == contents(folder)


@pytest.mark.parametrize(
    "step", [1, 3, 10, 25, *range(30, 48, 3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(60))]
)
def test_a_killed_restore_resumes(processes: ForkServerContext, place: Place, folder: Path, tmp_path: Path, step: int) -> None:
    dest, back = tmp_path / "dest", tmp_path / "back"
    back_up(place, dest)
    done = run(processes, dying.restore_and_die_at, dest, back, step)
    if (not done and (back / ".restoring").exists()) or not back.exists():
        restore(dest, Place.of(str(back)))
    assert contents(back) == contents(folder)
    assert verify(Place.existing(str(back))).sound


def test_a_killed_verification_resumes(processes: ForkServerContext, place: Place, folder: Path) -> None:
    receiving, sending = processes.Pipe(duplex=False)
    process = processes.Process(target=dying.verify_slowly, args=(folder, sending))
    process.start()
    for _ in range(4):
        assert receiving.recv() == "read"
    process.kill()
    process.join()
    found = verify(place)
    assert 3 <= found.resumed < found.files
    assert found.sound
