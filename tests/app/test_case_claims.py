"""Claims of cases: others see who works on a case; exactly one person gets it; a lost file costs claims only."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

import pytest

from datastores.case_claims import ACTIVE_GAP_SECONDS, CLAIM_SECONDS, MAX_OPENED, CaseClaims, Claim
from medsam2_atlas.base.errors import ClaimedError
from waiting import Clock

KIM, LEE = ("token:kim", "kim"), ("token:lee", "lee")


@pytest.fixture
def clock() -> Clock:
    return Clock(1.8e9)


@pytest.fixture
def claims(tmp_path: Path, clock: Clock) -> CaseClaims:
    return CaseClaims(tmp_path / "claims.sqlite", clock)


def claimed(claims: CaseClaims, person: tuple[str, str]) -> Claim:
    found = claims.claim("a", *person)
    assert found is not None
    return found


def holder(claims: CaseClaims, study: str) -> str:
    found = claims.of(study)
    return found.person if found else ""


def test_a_claim_ends_after_half_an_hour_of_silence(claims: CaseClaims, clock: Clock) -> None:
    claims.touch("a", *KIM)
    began = clock.now
    clock.now += CLAIM_SECONDS - 1
    claims.touch("a", *KIM)  # a draft renews it
    clock.now += CLAIM_SECONDS - 1
    found = claims.of("a")
    assert found is not None
    assert (found.person, found.since) == ("kim", began)
    assert found.as_dict() == {"person": "kim", "since": "2027-01-15T08:00:00+00:00"}
    clock.now += 2
    assert holder(claims, "a") == ""
    assert claims.all().studies() == []


def test_the_first_of_several_people_holds_the_claim(claims: CaseClaims, clock: Clock) -> None:
    claims.touch("a", *KIM)
    clock.now += 1
    claims.touch("a", *LEE)
    assert [one.person for one in claims.all().opened("a")] == ["kim", "lee"]
    with pytest.raises(ClaimedError, match="since 2027-01-15T08:00:00") as refused:
        claims.claim("a", *LEE)
    assert refused.value.claimed == {"person": "kim", "since": "2027-01-15T08:00:00+00:00"}
    assert claimed(claims, KIM).since == 1.8e9
    claims.release("a", KIM[0])
    assert holder(claims, "a") == "lee"


def test_who_only_views_a_signed_off_case_does_not_claim_it(claims: CaseClaims, clock: Clock) -> None:
    claims.open("a", *KIM, works=False)
    assert holder(claims, "a") == ""
    assert [one.claims for one in claims.all().opened("a")] == [False]
    clock.now += 60
    claims.touch("a", *KIM)  # the person begins to edit it
    claims.open("a", *KIM, works=False)
    found = claims.of("a")
    assert found is not None
    assert found.since == clock.now


def test_who_looks_at_a_case_of_another_person_does_not_claim_it_later(claims: CaseClaims, clock: Clock) -> None:
    claims.open("a", *KIM)
    for _ in range(3):
        clock.now += 60
        claims.open("a", *LEE)
    assert [(one.person, one.claims) for one in claims.all().opened("a")] == [("kim", True), ("lee", False)]
    claims.release("a", KIM[0])
    assert holder(claims, "a") == ""
    clock.now += 30
    claims.touch("a", *LEE)  # the first draft
    assert holder(claims, "a") == "lee"
    assert claims.active_seconds("a", LEE[0]) == 30  # without the time of looking
    claims.open("b", *LEE)
    clock.now += 60
    claims.open("b", *LEE)
    assert claims.active_seconds("b", LEE[0]) == 60


def test_a_person_keeps_the_last_twenty_cases(claims: CaseClaims, clock: Clock) -> None:
    claims.touch("other", *LEE)
    for n in range(MAX_OPENED + 5):
        clock.now += 1
        getattr(claims, ("claim", "touch", "open")[n % 3])(f"c{n:02d}", *KIM)
        claims.touch("c00", *KIM)  # the person works on this one
    expected = ["c00", *(f"c{n:02d}" for n in range(6, MAX_OPENED + 5))]
    assert sorted(claims.all().studies()) == [*expected, "other"]
    assert holder(claims, "other") == "lee"


def test_a_clock_that_is_set_back_does_not_prolong_a_claim(claims: CaseClaims, clock: Clock) -> None:
    claims.touch("a", *KIM)
    clock.now -= 30 * 86400
    claims.touch("b", *LEE)
    found = claims.of("a")
    assert found is not None
    assert found.since == clock.now
    clock.now += CLAIM_SECONDS + 1
    assert claims.all().studies() == []
    claims.touch("a", *KIM)
    assert claims.active_seconds("a", KIM[0]) == 0


def test_exactly_one_of_many_people_gets_a_case(tmp_path: Path) -> None:
    file, count = tmp_path / "claims.sqlite", 12
    ready, won, refused = threading.Barrier(count), list[str](), list[str]()

    def ask(name: str) -> None:
        claims = CaseClaims(file)
        ready.wait()
        try:
            won.append(claimed(claims, (f"token:{name}", name)).person)
        except ClaimedError as error:
            refused.append(error.problem)

    threads = [threading.Thread(target=ask, args=(f"p{n}",)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(refused) == count - 1
    assert all(f"by {won[0]} since" in problem for problem in refused)


def test_claims_and_active_time_survive_a_restart(claims: CaseClaims, clock: Clock, tmp_path: Path) -> None:
    claims.touch("a", *KIM)
    clock.now += 60
    claims.touch("a", *KIM)
    again = CaseClaims(tmp_path / "claims.sqlite", clock)
    assert holder(again, "a") == "kim"
    assert again.active_seconds("a", KIM[0]) == 60


def test_pauses_do_not_count_as_active_time(claims: CaseClaims, clock: Clock) -> None:
    for gap in (0, 100, ACTIVE_GAP_SECONDS, ACTIVE_GAP_SECONDS + 1, 86400, 50):
        clock.now += gap
        claims.touch("a", *KIM)
    clock.now += 20
    assert claims.active_seconds("a", KIM[0]) == 100 + ACTIVE_GAP_SECONDS + 50 + 20
    assert claims.active_seconds("a", LEE[0]) == 0
    claims.finish("a", KIM[0])
    assert (claims.active_seconds("a", KIM[0]), holder(claims, "a")) == (0, "")


@pytest.mark.parametrize("loss", ["removed", "damaged"])
def test_a_lost_file_costs_claims_only(claims: CaseClaims, tmp_path: Path, loss: str, caplog: pytest.LogCaptureFixture) -> None:
    claims.touch("a", *KIM)
    file = tmp_path / "claims.sqlite"
    file.unlink()
    if loss == "damaged":
        file.write_bytes(b"SQLite format 3\0" + b"\1" * 4096)
    with caplog.at_level(logging.WARNING):
        assert holder(claims, "a") == ""
    assert "claims.sqlite" in caplog.text
    assert claimed(claims, LEE).person == "lee"


def test_a_disk_that_fails_never_raises_an_error(
    claims: CaseClaims, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(claims._base, "write", fail)
    monkeypatch.setattr(claims._base, "read", fail)
    with caplog.at_level(logging.WARNING):
        claims.touch("a", *KIM)
        claims.finish("a", KIM[0])
        claims.release("a", KIM[0])
    assert holder(claims, "a") == ""
    assert claims.claim("a", *KIM) is None  # nobody else will see it
    assert claims.active_seconds("a", KIM[0]) == 0
    assert "cannot be recorded" in caplog.text


def test_a_claim_does_not_keep_the_name_of_a_case_that_is_erased_meanwhile(tmp_path: Path, clock: Clock) -> None:
    erased = set[str]()
    claims = CaseClaims(tmp_path / "claims.sqlite", clock, erased=erased.__contains__)
    claims.touch("kept", *KIM)
    claims.touch("patient-7", *KIM)
    erased.add("patient-7")
    claims.touch("patient-7", *KIM)
    claims.open("patient-7", *LEE)
    assert claims.claim("patient-7", *LEE) is None
    assert claims.all().studies() == ["kept"]
    assert b"patient-7" not in (tmp_path / "claims.sqlite").read_bytes()
