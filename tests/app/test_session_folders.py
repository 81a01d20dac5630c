"""Damaged session folders are skipped, and nothing outside of them is removed."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from datastores.session_folders import SessionFolders

HOURS_AGO = time.time() - 7200


def session(store: Path, **changes: Any) -> Path:
    name = str(uuid.uuid4())
    folder = store / name
    folder.mkdir()
    (folder / "image.nii.gz").write_bytes(b"x")
    about = {
        "name": name,
        "path": str(folder),
        "image": str(folder / "image.nii.gz"),
        "meta": {},
        "create_ts": 0,
        "last_access_ts": int(time.time()),
        "expiry": 3600,
    }
    (folder / "meta.info").write_text(json.dumps(about | changes))
    os.utime(folder, (HOURS_AGO, HOURS_AGO))
    return folder


def broken(store: Path, content: str | None) -> Path:
    folder = session(store)
    (folder / "meta.info").unlink()
    if content is not None:
        (folder / "meta.info").write_text(content)
    os.utime(folder, (HOURS_AGO, HOURS_AGO))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "sessions").mkdir()
    return tmp_path / "sessions"


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", "[" * 10**5, "3", "null", '{"image": 3}', '{"expiry": "x", "image": "y"}', "\x00"]
)
def test_a_session_with_a_missing_or_damaged_description_is_skipped(store: Path, content: str | None) -> None:
    good, bad = session(store), broken(store, content)
    sessions = SessionFolders(str(store))
    assert sessions.get_session(bad.name) is None
    assert sessions.remove_expired() == 1
    assert not bad.exists()
    assert sessions.get_session(good.name).image == str(good / "image.nii.gz")


def test_expired_and_unusable_sessions_are_removed(store: Path) -> None:
    old = session(store, last_access_ts=int(time.time()) - 4000)
    lost = session(store)
    (lost / "image.nii.gz").unlink()
    os.utime(lost, (HOURS_AGO, HOURS_AGO))
    making = broken(store, None)
    os.utime(making)
    good = session(store)
    sessions = SessionFolders(str(store))
    assert sessions.get_session(old.name) is None
    assert sessions.remove_expired() == 2
    assert {folder.name for folder in store.iterdir()} == {making.name, good.name}


def test_only_a_sessions_own_folder_is_removed(store: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "image.nii.gz").write_bytes(b"x")
    (tmp_path / "other").mkdir()
    link = store / str(uuid.uuid4())
    link.symlink_to(precious)
    (store / "notes").mkdir()
    os.utime(store / "notes", (HOURS_AGO, HOURS_AGO))
    away = session(store, image=str(precious / "image.nii.gz"))
    sessions = SessionFolders(str(store))
    assert sessions.get_session(away.name) is None
    assert sessions.remove_expired() == 1
    for name in ("..", "../other", "", ".", str(precious), link.name, f"../{tmp_path.name}/precious"):
        assert sessions.get_session(name) is None
        assert not sessions.remove_session(name)
    assert (precious / "image.nii.gz").exists()
    assert (tmp_path / "other").exists()
    assert (store / "notes").exists()


def test_a_new_session_can_be_used_and_removed(store: Path, tmp_path: Path) -> None:
    (tmp_path / "image.nii.gz").write_bytes(b"x")
    sessions = SessionFolders(str(store))
    name, _ = sessions.add_session(str(tmp_path / "image.nii.gz"))
    assert Path(sessions.get_session(name).image).read_bytes() == b"x"
    assert sessions.remove_session(name)
    assert sessions.get_session(name) is None
    assert list(store.iterdir()) == []
