"""The audit log loses no line, reveals changed and forged lines, and contains no study names."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medsam2_atlas.audit import files as audit_files
from medsam2_atlas.audit import log as audit_log
from medsam2_atlas.audit.entry import AuditEntry
from medsam2_atlas.audit.files import AuditFiles, AuditLimits, digest_of
from medsam2_atlas.audit.log import AuditLog, record_command
from medsam2_atlas.audit.reading import LineQuery, check, files_of, lines
from medsam2_atlas.base.study_hash import StudyNames
from medsam2_atlas.storage import WorkFolder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / ".medsam2_atlas"


def written(work: Path) -> list[dict[str, object]]:
    return [json.loads(line) for file in files_of(work) for line in file.read_text().splitlines()]


def test_a_line_contains_person_action_and_study_without_its_name(work: Path) -> None:
    log = AuditLog(work)
    entry = AuditEntry("label.save", who="kim", who_id="token:kim", study="Doe^Jane", tag="final", version=3, status=200)
    assert log.record(entry)
    (line,) = written(work)
    assert (line["who"], line["who_id"], line["action"], line["tag"], line["version"]) == (
        "kim",
        "token:kim",
        "label.save",
        "final",
        3,
    )
    assert line["study"] == StudyNames(work).hashed("Doe^Jane")
    assert "Doe" not in (work / "audit" / "audit.jsonl").read_text()
    assert AuditLog(work, plain=True).record(AuditEntry("label.save", study="Doe^Jane"))
    assert written(work)[1]["study"] == "Doe^Jane"
    assert len(lines(work, LineQuery(study="Doe^Jane"))) == 2  # finds the name and its hash


def test_values_from_outside_forge_no_line_and_are_shortened(work: Path) -> None:
    AuditLog(work).record(
        AuditEntry(
            "login", who='x\n{"who":"max"}\x1b[2J\u2028\ud800', details={"name\n": "y" * 10_000, "many": list(range(10_000))}
        )
    )
    raw = (work / "audit" / "audit.jsonl").read_bytes()
    assert raw.count(b"\n") == 1
    assert raw.isascii()
    assert b"\x1b" not in raw
    assert len(raw) < 40_000


def test_files_of_the_audit_log_are_never_readable_by_everybody(work: Path) -> None:
    before = os.umask(0o022)
    try:
        AuditLog(work).record(AuditEntry("login"))
    finally:
        os.umask(before)
    assert (work / "audit").stat().st_mode & 0o777 == 0o700
    assert (work / "audit" / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_changed_removed_or_added_line_is_found(work: Path) -> None:
    log = AuditLog(work)
    for number in range(5):
        log.record(AuditEntry("image.read", details={"n": number}))
    file = work / "audit" / "audit.jsonl"
    good = file.read_bytes()
    assert (check(work).lines, check(work).problems, check(work).complete) == (5, [], True)
    kept = good.splitlines(keepends=True)
    for bad in (
        good.replace(b'"n":2', b'"n":7'),
        b"".join(kept[:2] + kept[3:]),
        b"".join(kept[:2] + [kept[0]] + kept[2:]),
        good.replace(kept[1], b"what?\n"),
    ):
        file.write_bytes(bad)
        assert check(work).problems
    file.write_bytes(b"".join(kept[:4]))
    assert not check(work).problems
    assert check(work).last != digest_of(kept[4][:-1])  # a copy of the last digest reveals that lines were cut off


def test_a_file_that_is_shortened_while_the_server_runs_is_found(work: Path) -> None:
    log = AuditLog(work)
    for number in range(3):
        log.record(AuditEntry("image.read", details={"n": number}))
    file = work / "audit" / "audit.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:2]))
    log.record(AuditEntry("image.read"))
    assert check(work).problems == ["audit.jsonl, line 3: the line before it was changed or removed."]


def test_several_writers_lose_no_line_while_files_are_rotated(work: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from medsam2_atlas.audit.log import AuditEntry, AuditLog, AuditLimits\n"
        "log = AuditLog(Path(sys.argv[1]), limits=AuditLimits(4000))\n"
        "assert all([log.record(AuditEntry('image.read', details={'n': n}), flush=False) for n in range(100)])"
    )
    others = [subprocess.Popen([sys.executable, "-c", code, str(work)]) for _ in range(2)]
    log = AuditLog(work, limits=AuditLimits(4000))
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda n: log.record(AuditEntry("image.read", details={"n": n}), flush=False), range(100)))
    assert [other.wait() for other in others] == [0, 0]
    assert len(written(work)) == 300
    assert (check(work).lines, check(work).problems) == (300, [])
    assert len(files_of(work)) > 5
    assert len(lines(work, LineQuery(limit=20))) == 20
    assert lines(work, LineQuery(limit=20)) == written(work)[-20:]


def test_a_new_day_begins_a_new_file_and_old_files_are_removed_on_request(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(work, limits=AuditLimits(keep_days=30))
    for day in ("2026-01-01", "2026-01-02", "2026-01-02", "2026-01-01", "2026-01-03"):  # the clock is set back once
        monkeypatch.setattr(audit_files, "utc_now", lambda day=day: f"{day}T00:00:00.000Z")
        monkeypatch.setattr(log.files, "remove_old", lambda: 0)
        monkeypatch.setattr(audit_log, "utc_now", audit_files.utc_now)
        log.record(AuditEntry("login"))
    names = [file.name for file in files_of(work)]
    assert names == ["audit-20260101-1.jsonl", "audit-20260102-1.jsonl", "audit-20260102-2.jsonl", "audit.jsonl"]
    assert not check(work).problems
    monkeypatch.undo()
    assert log.files.remove_old() == 3
    assert (check(work).lines, check(work).complete, check(work).problems) == (1, False, [])


def test_a_line_that_a_full_disk_cuts_off_is_kept_and_written_later(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(work)
    log.record(AuditEntry("login", who="first"))
    whole = os.write
    monkeypatch.setattr(audit_files.os, "write", lambda handle, data: whole(handle, data[:10]))
    assert not log.record(AuditEntry("label.save", who="second"))
    assert "disk is full" in log.problem
    assert len(written(work)) == 1
    monkeypatch.undo()
    monkeypatch.setattr(audit_log, "_RETRY_SECONDS", 0.0)
    assert log.record(AuditEntry("label.save", who="third"))
    assert log.problem == ""
    assert [line["who"] for line in written(work)] == ["first", "second", "third"]
    assert not check(work).problems


def test_lines_that_cannot_be_written_use_limited_memory_and_are_counted(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    log = AuditLog(work)
    monkeypatch.setattr(audit_log, "_MAX_KEPT", 5)
    monkeypatch.setattr(AuditFiles, "_open", refuse)
    for number in range(8):
        assert not log.record(AuditEntry("image.read", details={"n": number}))
    assert "5 lines wait in memory, 3 are lost" in log.problem
    monkeypatch.undo()
    assert log.flush()
    assert [line["details"] for line in written(work)] == [*({"n": n} for n in range(3, 8)), {"lines": 3}]


def test_requests_do_not_wait_for_a_disk_that_has_just_failed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refuse(*_: object) -> int:
        tried.append(1)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(AuditFiles, "_open", refuse)
    log = AuditLog(work)
    for _ in range(20):
        assert not log.record(AuditEntry("image.read"))
    assert len(tried) == 1
    monkeypatch.undo()
    assert log.flush()  # the readiness check does this
    assert len(written(work)) == 20


def test_an_incomplete_line_after_a_power_cut_damages_no_other_line(work: Path) -> None:
    AuditLog(work).record(AuditEntry("login", who="first"))
    with (work / "audit" / "audit.jsonl").open("ab") as stream:
        stream.write(b'{"at":"2026')
    AuditLog(work).record(AuditEntry("login", who="second"))
    assert [line["who"] for line in lines(work, LineQuery())] == ["first", "second"]
    assert check(work).problems == ["audit.jsonl, line 2: is damaged."]


def test_a_link_in_the_place_of_the_file_is_not_followed(work: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("mine")
    (work / "audit").mkdir(parents=True)
    (work / "audit" / "audit.jsonl").symlink_to(other)
    log = AuditLog(work)
    assert not log.record(AuditEntry("login"))
    assert log.problem
    assert other.read_text() == "mine"


def test_commands_are_recorded_with_the_user_of_the_operating_system(tmp_path: Path) -> None:
    studies = WorkFolder.of(tmp_path)
    record_command(studies, "label.restore", study="a", tag="final", version=2)
    assert AuditLog.of(studies) is AuditLog.of(WorkFolder.of(tmp_path))
    (line,) = lines(studies.path, LineQuery(action="label"))
    assert (line["who_id"], line["place"]) == (f"os:{os.getuid()}", "command line")
    assert lines(studies.path, LineQuery(action="lab")) == []
    assert lines(studies.path, LineQuery(since="2999")) == []
    assert lines(studies.path, LineQuery(who=str(line["who_id"]))) == [line]


def test_the_removal_of_the_only_closed_file_is_noticed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(work, limits=AuditLimits(keep_days=30))
    with monkeypatch.context() as long_ago:
        long_ago.setattr(audit_log, "utc_now", lambda: "2020-01-01T00:00:00.000Z")
        log.record(AuditEntry("label.save"))
    log.record(AuditEntry("label.save"))
    found = check(work)
    assert (found.lines, found.problems, found.complete) == (1, [], False)


@pytest.mark.parametrize("lines_before", [0, 1])
def test_the_removal_of_a_log_in_use_is_noticed(work: Path, lines_before: int) -> None:
    for _ in range(lines_before):
        AuditLog(work, limits=AuditLimits(max_bytes=1)).record(AuditEntry("label.save"))
    log = AuditLog(work, limits=AuditLimits(max_bytes=1 if lines_before else 10**6))
    log.record(AuditEntry("label.save"))
    (work / "audit" / "audit.jsonl").unlink()
    (work / "audit" / "other").touch()  # takes the inode number of the removed file, so that the new file gets another one
    log.record(AuditEntry("label.read"))
    found = check(work)
    assert found.problems if lines_before else not found.complete
