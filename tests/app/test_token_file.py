"""The server applies changes of the token file."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from medsam2_atlas.access.token_entries import digest_of
from server.token_file import TokenFile
from token_files import token_of, tokens_for, write_tokens
from waiting import Clock


def name_of(people: TokenFile, name: str) -> str:
    entry = people.entry(digest_of(token_of(name)))
    return entry.user.name if entry is not None else ""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tokens_for(tmp_path / "tokens.yaml", {"kim": "annotator", "lee": "admin"})


@pytest.mark.parametrize(
    ("expires", "last"),
    [
        ("2027-01-31", "2027-01-31T23:59:59"),
        ("'2027-01-31'", "2027-01-31T23:59:59"),
        ("2027-01-31 12:00:00", "2027-01-31T11:59:59"),
        ("2027-01-31T12:00:00+02:00", "2027-01-31T09:59:59"),
    ],
)
def test_an_expired_token_is_refused(tmp_path: Path, expires: str, last: str) -> None:
    file = write_tokens(tmp_path / "t.yaml", f"- {{name: kim, role: admin, token: {token_of('kim')}, expires: {expires}}}")
    end = Clock(datetime.fromisoformat(last).replace(tzinfo=timezone.utc).timestamp())
    people = TokenFile(file, wall_clock=end)
    assert name_of(people, "kim") == "kim"
    end.now += 1.0
    assert name_of(people, "kim") == ""


def test_a_user_removed_from_the_file_loses_access(file: Path) -> None:
    clock = Clock()
    people = TokenFile(file, clock=clock)
    assert name_of(people, "kim") == "kim"
    tokens_for(file, {"lee": "admin", "max": "annotator"})
    clock.now = 1.5
    assert [name_of(people, name) for name in ("kim", "lee", "max")] == ["", "lee", "max"]


def test_two_quick_changes_are_both_read(file: Path) -> None:
    clock = Clock()
    people = TokenFile(file, clock=clock)
    for round, name in enumerate(("ann", "bob", "eve"), 1):  # of the same size, and perhaps with the same time
        tokens_for(file, {name: "annotator"})
        clock.now = 2.0 * round
        assert name_of(people, name) == name


def test_an_unchanged_file_is_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    os.utime(file, (time.time() - 3600, time.time() - 3600))
    people = TokenFile(file, clock=clock)
    monkeypatch.setattr("server.token_file.read_tokens", lambda file: pytest.fail("read again"))
    clock.now = 5.0
    assert name_of(people, "kim") == "kim"


def half_written(file: Path) -> None:
    file.write_text(file.read_text()[:-30])


def missing(file: Path) -> None:
    file.unlink()


def readable(file: Path) -> None:
    file.chmod(0o644)


@pytest.mark.parametrize("harm", [half_written, missing, readable])
def test_an_unusable_file_locks_everybody_out_only_after_a_minute(
    file: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    people = TokenFile(file, clock=clock)
    harm(file)
    clock.now = 2.0
    with caplog.at_level(logging.ERROR, "server.token_file"):
        assert name_of(people, "kim") == "kim"
    assert str(file) in people.problem
    assert len(caplog.records) == 1
    clock.now = 61.0
    assert name_of(people, "kim") == "kim"
    clock.now = 63.0
    assert name_of(people, "kim") == ""
    tokens_for(file, {"kim": "annotator"})
    clock.now = 65.0
    assert name_of(people, "kim") == "kim"
    assert people.problem == ""


def test_an_empty_list_locks_everybody_out_at_once(file: Path) -> None:
    clock = Clock()
    people = TokenFile(file, clock=clock)
    write_tokens(file, "[]")
    clock.now = 2.0
    assert name_of(people, "kim") == ""
