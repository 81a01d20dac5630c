"""Keyed hashes of study names: each work folder has one key, which only its owner can read."""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medsam2_atlas.base.study_hash import StudyNames


def test_a_name_has_the_same_hash_in_every_process_of_a_work_folder(tmp_path: Path) -> None:
    work = tmp_path / ".medsam2_atlas"
    first, second = StudyNames(work), StudyNames(work)
    assert re.fullmatch(r"study-[0-9a-f]{10}", first.hashed("Müller^Anna"))
    assert first.hashed("Müller^Anna") == second.hashed("Müller^Anna") != first.hashed("Müller^Hans")
    assert StudyNames(tmp_path / "others").hashed("Müller^Anna") != first.hashed("Müller^Anna")
    assert first.hashed("odd \udcff")
    key = work / "names.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32
    assert [file.name for file in work.iterdir()] == ["names.key"]


def test_processes_that_start_at_once_agree_on_the_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: StudyNames(tmp_path / "work").hashed("a"), range(32)))) == 1


def test_plain_names_need_no_key(tmp_path: Path) -> None:
    assert StudyNames(tmp_path / "work", plain=True).hashed("case 1") == "case 1"
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("kind", ["file in place of the folder", "short", "folder", "link"])
def test_an_unusable_key_is_replaced_by_a_key_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    work = tmp_path / "work"
    if kind == "file in place of the folder":
        work.write_text("")
    else:
        work.mkdir()
        (tmp_path / "elsewhere").write_bytes(b"x" * 32)
        {
            "short": lambda: (work / "names.key").write_bytes(b"1"),
            "folder": lambda: (work / "names.key").mkdir(),
            "link": lambda: (work / "names.key").symlink_to(tmp_path / "elsewhere"),
        }[kind]()
    with caplog.at_level(logging.WARNING):
        first, second = StudyNames(work), StudyNames(work)
    assert first.hashed("a") != second.hashed("a")
    assert "names.key" in caplog.text
