"""The file of tokens: whom it refuses, and what counts after it has changed."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from medsam2_atlas.errors import InputError
from server.token_file import TokenFile, digest_of, read_tokens
from token_files import token_of, tokens_for, write_tokens
from waiting import Clock

LONG = 32 * "x"


def name_of(people: TokenFile, name: str) -> str:
    entry = people.entry(digest_of(token_of(name)))
    return entry.user.name if entry is not None else ""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tokens_for(tmp_path / "tokens.yaml", {"kim": "annotator", "lee": "admin"})


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o642, 0o641, 0o666])
def test_a_file_that_everybody_may_use_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(InputError, match=rf"mode {mode:04o}.* chmod 640"):
        read_tokens(file)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o440, 0o660])
def test_owner_and_group_may_use_the_file(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert len(read_tokens(file)[0]) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"- {{name: kim, role: admin, token: {31 * 'x'}}}", r"entry 1 \(kim\) has a token of less than 32 characters"),
        ("- {name: kim, role: admin, token: put-a-long-random-text-here-1-and-some-more}", "an example"),
        ("- {name: kim, role: admin, sha256: DIGEST-OF-EXAMPLE}", "an example"),
        ("- {name: kim, role: admin, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}", "an example"),
        (f"- {{name: kim, role: admin, token: {LONG}}}\n- {{name: kim, role: admin, token: {LONG}y}}", "two entries for kim"),
        (f"- {{name: kim, role: admin, token: {LONG}}}\n- {{name: lee, role: admin, token: {LONG}}}", "same token for kim and"),
        (f"- {{name: kim, role: admin, token: {LONG}, expire: 2020-01-01}}", "'expire', which is not known"),
        (f"- {{name: kim, role: admin, token: {LONG}, expires: soon}}", "an end that is no date"),
        (f"- {{name: kim, role: admin, token: {LONG}, expires: }}", "an end that is no date"),
        (f"- {{name: kim, role: admin, token: {LONG}, expires: 2027-13-01}}", "a date or number that is none"),
        (f"- {{name: kim, role: admin, token: {LONG}, sha256: {64 * '0'}}}", "either token or sha256"),
        (f"- {{name: kim, role: {LONG}, token: admin}}", "the role something"),
        (f'- {{name: "kim\\n", role: admin, token: {LONG}}}', "a name with odd characters"),
        (f'- {{name: "a\u202eb", role: admin, token: {LONG}}}', "a name with odd characters"),
        (f"- {{name: {101 * 'k'}, role: admin, token: {LONG}}}", "of more than 100"),
        (f"- {{name: [kim], role: admin, token: {LONG}}}", "entry 1 has no name"),
        ("- {name: kim, role: admin, token: 12345678901234567890123456789012}", "between quotes"),
        (f"- {{name: kim, role: admin, token: *{LONG}}}", "not YAML in line 1"),
        (f"- {{name: kim, role: admin, token={LONG}}}", "something, which is not known"),
    ],
)
def test_entries_that_are_not_safe_are_refused_without_showing_a_token(tmp_path: Path, text: str, told: str) -> None:
    text = text.replace("DIGEST-OF-EXAMPLE", hashlib.sha256(b"put-a-long-random-text-here-2").hexdigest())
    file = write_tokens(tmp_path / "tokens.yaml", text)
    with pytest.raises(InputError, match=told) as refused:
        read_tokens(file)
    assert "xxxx" not in str(refused.value)
    assert "put-a-long" not in str(refused.value)


def test_the_example_is_refused_until_its_tokens_are_replaced(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "deploy" / "tokens.example.yaml"
    with pytest.raises(InputError, match=r"an example.* Make one with: python3"):
        read_tokens(write_tokens(tmp_path / "tokens.yaml", example.read_text()))


@pytest.mark.parametrize(
    ("expires", "last"),
    [
        ("2027-01-31", "2027-01-31T23:59:59"),
        ("'2027-01-31'", "2027-01-31T23:59:59"),
        ("2027-01-31 12:00:00", "2027-01-31T11:59:59"),
        ("2027-01-31T12:00:00+02:00", "2027-01-31T09:59:59"),
    ],
)
def test_a_token_is_nobodys_after_its_end(tmp_path: Path, expires: str, last: str) -> None:
    file = write_tokens(tmp_path / "t.yaml", f"- {{name: kim, role: admin, token: {token_of('kim')}, expires: {expires}}}")
    end = Clock(datetime.fromisoformat(last).replace(tzinfo=timezone.utc).timestamp())
    people = TokenFile(file, wall_clock=end)
    assert name_of(people, "kim") == "kim"
    end.now += 1.0
    assert name_of(people, "kim") == ""


def test_a_person_who_is_taken_out_of_the_file_loses_access(file: Path) -> None:
    clock = Clock()
    people = TokenFile(file, clock=clock)
    assert name_of(people, "kim") == "kim"
    tokens_for(file, {"lee": "admin", "max": "annotator"})
    clock.now = 1.5
    assert [name_of(people, name) for name in ("kim", "lee", "max")] == ["", "lee", "max"]


def test_two_changes_within_a_moment_are_both_seen(file: Path) -> None:
    clock = Clock()
    people = TokenFile(file, clock=clock)
    for round, name in enumerate(("ann", "bob", "eve"), 1):  # of one size, perhaps of one time
        tokens_for(file, {name: "annotator"})
        clock.now = 2.0 * round
        assert name_of(people, name) == name


def test_a_file_that_does_not_change_is_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_file_that_cannot_be_used_locks_nobody_out_for_a_minute_and_then_everybody(
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
