"""The worklist's routes: answers and refusals, the summary, and small pictures."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.listed_studies import KIM, Team, sign_off
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.active_learning import Assessment, ScoreTable
from medsam2_atlas.base.errors import UnavailableError
from medsam2_atlas.storage import Person
from medsam2_atlas.team import measure_next
from server import assignments, worklist_answers
from server import worklist as routes
from tasks.next_case import NextCase


@pytest.fixture
def team(datastore: StudyDatastore, table: ScoreTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    return Team(datastore, table, tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def zone() -> Iterator[None]:
    """Restores the time zone after a test that changes it."""
    yield
    time.tzset()


def test_the_answers_are_as_openapi_describes_them(team: Team, datastore: StudyDatastore, label: Path) -> None:
    sign_off(datastore, "a", label)
    datastore.claims.claim("b", KIM.id, KIM.name)
    page = team.ask("kim", "cases", size=4, state=["signed off", "in work", "new"], sort="time", down=True)
    assert page.status_code == 200, page.text
    assert worklist_answers.CasePage.model_validate(page.json()).model_dump(mode="json") == page.json()
    summary = team.ask("kim", "summary")
    assert worklist_answers.Summary.model_validate(summary.json()).model_dump(mode="json") == summary.json()
    schema = team.app.openapi()["components"]["schemas"]
    assert {"CasePage", "CaseRow", "Summary"} <= set(schema)
    assert summary.json()["pacs_problem"] == ""


@pytest.mark.parametrize(
    "query",
    [
        {"page": "0"},
        {"page": "-1"},
        {"page": "9" * 400},
        {"size": "0"},
        {"size": "1000000"},
        {"size": "x"},
        {"sort": "'; DROP TABLE"},
        {"state": "gone"},
        {"q": "x" * 10_000},
        {"person": "x" * 10_000},
        {"down": "perhaps"},
    ],
)
def test_wrong_queries_are_refused(team: Team, query: dict[str, str]) -> None:
    assert team.ask("kim", "cases", **query).status_code == 422


@pytest.mark.parametrize("text", ["\x00", "%", "' OR 1=1 --", "<script>", "\ufffd", "[", "(.*)+$", "../../etc/passwd"])
def test_strange_texts_find_nothing(team: Team, text: str) -> None:
    for key in ("q", "person", "organ", "model"):
        answer = team.ask("kim", "cases", **{key: text})
        assert (answer.status_code, answer.json()["rows"]) == (200, [])


def test_the_summary_counts_cases_and_states_what_the_person_may_do(team: Team, datastore: StudyDatastore, label: Path) -> None:
    sign_off(datastore, "a", label)
    about = team.ask("kim", "summary").json()
    assert (about["total"], about["counts"]["signed off"], about["today"], about["week"]) == (7, 1, 1, 1)
    assert (about["you"], about["review"], about["pacs"]) == ({"name": "kim", "role": "annotator"}, False, False)
    assert about["learning"] == {"on": True, "done": 2, "of": 6}
    models = {model["name"]: model for model in about["models"]}
    assert (models["unet_3d"]["missing"], models["medsam2"]["mark"], models["medsam2_atlas"]["version"]) == (
        "has no weights.",
        "demo weights",
        "7",
    )
    assert about["demo_weights"] is True
    assignees = {who: team.ask(who, "summary").json()["users"] for who in ("kim", "lee")}
    assert assignees == {"kim": [], "lee": ["ann", "kim", "lee", "max"]}, "names of all users are for those who assign cases"
    rights = {who: team.ask(who, "summary").json()["may"] for who in ("kim", "lee", "max")}
    assert rights == {
        "kim": {"upload": False, "assign": False, "review": False, "batch": False},
        "lee": {"upload": False, "assign": True, "review": True, "batch": False},
        "max": {"upload": True, "assign": True, "review": True, "batch": True},
    }


def test_cases_that_wait_or_were_returned_do_not_count_as_signed_off_today(
    team: Team, datastore: StudyDatastore, label: Path
) -> None:
    datastore.store.review.turn(True)
    for study in "abc":
        sign_off(datastore, study, label)
    reviewer = Person("lee", "token:lee")
    datastore.store.return_label("a", "final", 1, reviewer, "No.")
    assert [team.ask("kim", "summary").json()[key] for key in ("today", "week")] == [0, 0]
    datastore.store.accept_label("b", "final", 1, reviewer)
    about = team.ask("kim", "summary").json()
    assert (about["counts"]["signed off"], about["today"], about["week"]) == (1, 1, 1)


def test_people_see_counts_of_the_queue_but_only_their_own_jobs(team: Team) -> None:
    queue, end = team.app.state.queue, threading.Event()
    for who in ("kim", "ann"):
        queue.submit("unet_3d", f"case of {who}", end.wait, owner=f"token:{who}", person=who)
    try:
        shown = {who: team.ask(who, "summary") for who in ("kim", "ann", "lee")}
        for who, others in (("kim", "ann"), ("ann", "kim"), ("lee", "kim")):
            found = shown[who].json()["queue"]
            assert found["running"] + found["waiting"] == 2
            assert [job["owner"] for job in found["yours"]] == ([who] if who != "lee" else [])
            assert f"case of {others}" not in shown[who].text
            assert [job["title"] for job in found["yours"]] == [job["subject"] for job in found["yours"]], "it is not listed"
            assert not any(job["listed"] for job in found["yours"])
    finally:
        end.set()


def test_the_states_of_cases_are_read_once_for_all_jobs(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, end, calls = team.app.state.queue, threading.Event(), list[int]()
    for study in "abc":
        queue.submit("unet_3d", study, end.wait, owner="token:kim", person="kim")
    real = type(team.parts).titles
    monkeypatch.setattr(type(team.parts), "titles", lambda parts: calls.append(1) or real(parts))
    try:
        assert [job["listed"] for job in team.ask("kim", "summary").json()["queue"]["yours"]] == [True] * 3
        assert len(calls) == 1
    finally:
        end.set()


def test_a_new_case_has_a_picture_that_browsers_keep_only_for_themselves(
    team: Team, datastore: StudyDatastore, label: Path
) -> None:
    first = team.ask("kim", "picture", study="a")
    assert (first.status_code, first.headers["content-type"], first.headers["cache-control"]) == (
        200,
        "image/png",
        "private, no-cache",
    )
    assert first.content.startswith(b"\x89PNG")
    again = team.ask("kim", "picture", {"If-None-Match": first.headers["etag"]}, study="a")
    assert (again.status_code, again.content) == (304, b"")
    assert re.fullmatch(r'"[0-9a-f]{32}"', first.headers["etag"]), "it contains no name"
    sign_off(datastore, "a", label)
    second = team.ask("kim", "picture", {"If-None-Match": first.headers["etag"]}, study="a")
    assert (second.status_code, second.content != first.content) == (200, True)
    for study in ("../a", "none", ""):
        assert team.ask("kim", "picture", study=study).status_code == 404
    assert team.client.get("/worklist/picture", params={"study": "a"}).status_code == 401


def test_a_picture_that_cannot_be_drawn_is_a_grey_one_and_is_not_tried_again_at_once(
    team: Team, datastore: StudyDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def broken(*_: Any, **__: Any) -> Any:
        tried.append("x")
        raise UnavailableError("readers", "are busy.", "Try again.")

    monkeypatch.setattr("medsam2_atlas.studies.pictures.run_task", broken)
    answers = [team.ask("kim", "picture", study="a") for _ in range(3)]
    assert [(answer.status_code, answer.headers["cache-control"]) for answer in answers] == [(200, "no-store")] * 3
    assert tried == ["x"]
    assert team.ask("kim", "picture", study="g.mhd").status_code == 200
    assert tried == ["x"], "a case with a problem is not read"


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


ODD_RECORDS: list[dict[str, Any]] = [
    {"author": None},
    {"author": ["kim"], "author_id": {"a": 1}},
    {"made": None},
    {"made": 5},
    {"made": "0001-01-01T00:00:00+14:00"},
    {"made": "0001-01-01T00:00:00"},
    {"made": "9999-12-31T23:59:59-11:00"},
    {"info": None},
    {"info": []},
    {"accepted": {"by": None, "at": 5}},
    {"info": {"deep": nested(600)}},
]


@pytest.mark.parametrize("odd", ODD_RECORDS, ids=lambda odd: str(odd)[:60])
def test_an_odd_record_hides_neither_the_list_nor_the_figures_nor_the_next_case(
    team: Team, datastore: StudyDatastore, table: ScoreTable, label: Path, odd: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for study in "ab":
        sign_off(datastore, study, label)
    record = datastore.store.work.path / "versions" / "final" / "a" / "00001.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | odd))
    for index in datastore.store.work.path.glob("studies*.sqlite"):
        index.unlink()  # it is filled again from the records
    monkeypatch.setattr(assignments, "app_instance", routes.app_instance)
    while measure_next(datastore.store, datastore.figures):
        pass
    for zone in ("America/New_York", "Asia/Tokyo"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert team.ask("lee", "cases", sort="author").json()["counts"]["signed off"] == 2
        assert team.ask("lee", "cases", sort="time").status_code == 200
        assert team.ask("lee", "summary").json()["today"] in (1, 2)
        assert team.ask("lee", "figures").json()["total"]["signed_off"] in (1, 2)
    asked = {"person": "token:kim", "person_name": "kim"}
    found = NextCase("disagreement", table, dict)(asked, datastore)
    assert found is not None
    assert found["id"] == "c"


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("file", "text", "state"),
    [
        ("images/a.json", DEEP, "new"),
        ("images/a.json", json.dumps({"PatientName": nested(600)}), "new"),
        ("reports/unet_3d/a.json", DEEP, "predicted"),
        ("reports/unet_3d/a.json", json.dumps({"report": {"confidence": {"liver": 10**400}}}), "predicted"),
        ("reports/unet_3d/a.json", json.dumps({"report": {"confidence": {"liver": float("nan")}}}), "predicted"),
        ("batch.json", DEEP, "new"),
    ],
    ids=lambda value: value[:40],
)
def test_an_odd_file_of_one_case_hides_neither_the_case_nor_the_list(
    team: Team, datastore: StudyDatastore, label: Path, file: str, text: str, state: str
) -> None:
    if state == "predicted":
        datastore.store.save_prediction("a", "unet_3d", label)
    odd = datastore.store.work.path / file
    odd.parent.mkdir(parents=True, exist_ok=True)
    odd.write_text(text)
    for index in datastore.store.work.path.glob("studies*.sqlite"):
        index.unlink()
    page = team.ask("kim", "cases", sort="confidence").json()
    assert {row["study"]: row["state"] for row in page["rows"]}["a"] == state
    assert page["total"] == 7
    assert team.ask("kim", "summary").status_code == 200


@pytest.mark.parametrize(
    ("column", "text"), [("scores", "x"), ("scores", '{"disagreement": NaN}'), ("why", "[]"), ("versions", "3"), ("why", DEEP)]
)
def test_damaged_measures_of_one_case_leave_those_of_the_others(team: Team, table: ScoreTable, column: str, text: str) -> None:
    for study, value in (("a", 0.5), ("b", 0.2), ("c", 0.9)):
        table.put(study, "", {}, Assessment({"disagreement": value}, {"disagreement": "low Dice"}))
    table._database.write(lambda base: base.execute(f"UPDATE measures SET {column} = ? WHERE study = 'a'", (text,)))
    rows = team.ask("kim", "cases", sort="disagreement").json()["rows"]
    assert [(row["study"], row["disagreement"]) for row in rows[:3]] == [("b", 0.2), ("c", 0.9), ("a", None)]
