"""Claims, assignments, returned cases and the next case of a person, as the routes of the worklist give them."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.active_learning import Assessment, ScoreTable
from medsam2_atlas.archive import Place
from medsam2_atlas.base.errors import ConflictError
from medsam2_atlas.erasing import contents, erase
from medsam2_atlas.storage import FINAL, Assignments, Person
from medsam2_atlas.team import measure_next
from server import assignments, errors, next_case, studies
from server.access import User
from server.assignments import comment_of, may_accept, opened_by
from storage.test_store import ct, label
from tasks.known import check_study
from tasks.next_case import NextCase

ROLES = {"kim": "annotator", "lee": "annotator", "reva": "reviewer"}


def user(name: str) -> User:
    return User(name, ROLES[name], f"token:{name}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        ct(tmp_path / "studies", name)
    return tmp_path / "studies"


@pytest.fixture
def datastore(folder: Path) -> StudyDatastore:
    """Returns a datastore with three new cases; the review stage is on."""
    found = StudyDatastore(folder)
    found.store.review.turn(True)
    return found


@pytest.fixture
def table(tmp_path: Path) -> ScoreTable:
    """Returns measures by which `b` comes first, then `c`, then `a`."""
    found = ScoreTable(tmp_path / "learning.sqlite")
    for study, value in (("a", 0.1), ("b", 0.9), ("c", 0.5)):
        found.put(study, "", {}, Assessment({"disagreement": value}, {"disagreement": "low Dice"}), "")
    return found


@pytest.fixture
def client(datastore: StudyDatastore, table: ScoreTable, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    strategies = {name: NextCase(name, table, dict) for name in ("disagreement", "first")}
    instance = SimpleNamespace(datastore=lambda: datastore, on_save_label=lambda *_: None, _strategies=strategies)
    for module in (assignments, studies):
        monkeypatch.setattr(module, "app_instance", lambda: instance)
    app = FastAPI()
    app.state.access = SimpleNamespace(may_be_user=ROLES.__contains__)
    app.include_router(assignments.router)
    app.include_router(studies.router)
    errors.install(app)

    @app.middleware("http")
    async def who(request: Request, call_next: Any) -> Any:
        request.scope["medsam2_atlas.user"] = user(request.headers["who"])
        return await call_next(request)

    with TestClient(app, raise_server_exceptions=False) as found:
        yield found


def ask(client: TestClient, who: str, method: str, path: str, **body: Any) -> Any:
    sent = {"params": body} if method == "DELETE" else {"json": body}
    answer = client.request(method, f"/worklist/{path}", headers={"who": who}, **sent)
    return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json()["detail"])


def sign_off(datastore: StudyDatastore, tmp_path: Path, study: str, who: str, organ: int = 6) -> int:
    file = label(tmp_path / "signed.nii.gz", organ)
    return datastore.save_person_label(study, file, FINAL, {"user": who, "confirm": True}, f"token:{who}").label.version.number


def give_back(client: TestClient, study: str, version: int, comment: str) -> Any:
    query = {"label": study, "version": version}
    return client.post("/datastore/label/return", params=query, json={"comment": comment}, headers={"who": "reva"})


def test_next_gives_each_person_another_case_and_claims_it(client: TestClient, datastore: StudyDatastore) -> None:
    first = ask(client, "kim", "POST", "next")
    assert (first["study"], first["claimed"]["person"]) == ("b", "kim")
    assert "highest disagreement (0.90)" in first["why"]
    assert ask(client, "lee", "POST", "next")["study"] == "c"
    assert ask(client, "kim", "POST", "next")["study"] == "b"  # still hers
    assert ask(client, "kim", "POST", "next", **{"except": "b"})["study"] == "a"
    last = ask(client, "reva", "POST", "next", strategy="first")
    assert (last["study"], last["claimed"]["person"]) == ("a", "kim")  # nothing else is left
    assert "all other cases are being edited by other people" in last["why"]
    assert ask(client, "kim", "POST", "next", strategy="nonsense")[0] == 404


def test_the_next_case_can_be_seen_without_claiming_it(client: TestClient, datastore: StudyDatastore) -> None:
    seen = client.get("/worklist/next", params={"except": "b"}, headers={"who": "kim"}).json()
    assert (seen["study"], "disagreement (0.50)" in seen["why"]) == ("c", True)
    assert datastore.claims.all().studies() == []
    assert client.get("/worklist/next", params={"strategy": "x"}, headers={"who": "kim"}).status_code == 404


def test_returned_cases_come_first_then_assigned_ones_and_those_of_others_last(
    client: TestClient, datastore: StudyDatastore, tmp_path: Path
) -> None:
    sign_off(datastore, tmp_path, "a", "kim")
    assert ask(client, "reva", "POST", "assign", study="c", person="kim") == {"assigned": "kim"}
    assert ask(client, "lee", "POST", "next")["study"] == "b"
    mine = ask(client, "kim", "POST", "next")
    assert (mine["study"], mine["why"].startswith("assigned to you by reva; ")) == ("c", True)
    assert give_back(client, "a", 1, "spleen").status_code == 200
    back = ask(client, "kim", "POST", "next")
    assert (back["study"], back["why"]) == ("a", "returned to you by reva: spleen")
    # others get it only if nothing else is free
    assert ask(client, "reva", "POST", "next")["why"].endswith("edited by other people, or assigned to them")
    datastore.claims.finish("a", "token:kim")
    other = ask(client, "reva", "POST", "next")
    assert (other["study"], other["why"]) == ("a", "returned to kim by reva: spleen; no other case is free")
    # an assignment of the returned case replaces its author
    ask(client, "reva", "DELETE", "claim", study="a")
    ask(client, "lee", "DELETE", "claim", study="b")
    ask(client, "reva", "POST", "assign", study="a", person="lee")
    assert ask(client, "lee", "POST", "next")["study"] == "a"
    sign_off(datastore, tmp_path, "a", "lee", 7)
    assert ask(client, "lee", "POST", "next")["study"] == "b"


def test_an_earlier_assignment_does_not_replace_the_author_of_a_returned_case(
    client: TestClient, datastore: StudyDatastore, tmp_path: Path
) -> None:
    ask(client, "reva", "POST", "assign", study="a", person="lee")
    sign_off(datastore, tmp_path, "a", "kim")  # an assignment is advice
    give_back(client, "a", 1, "spleen")
    assert ask(client, "kim", "POST", "next")["study"] == "a"
    assert ask(client, "lee", "POST", "next")["study"] == "b"


def test_nothing_is_next_if_all_cases_are_done(client: TestClient, datastore: StudyDatastore, tmp_path: Path) -> None:
    for study in "abc":
        sign_off(datastore, tmp_path, study, "kim")
    assert ask(client, "kim", "POST", "next") == {}
    give_back(client, "c", 1, "spleen")
    assert ask(client, "kim", "POST", "next")["study"] == "c"


def test_the_last_case_is_returned_to_its_author_who_works_on_it(
    client: TestClient, datastore: StudyDatastore, tmp_path: Path
) -> None:
    for study in "abc":
        sign_off(datastore, tmp_path, study, "kim")
    give_back(client, "a", 1, "spleen")
    assert ask(client, "kim", "POST", "next")["study"] == "a"
    for method in ("POST", "GET"):
        last = ask(client, "lee", method, "next")
        assert (last["study"], last["why"]) == ("a", "returned to kim by reva: spleen; no other case is free")
        assert last.get("claimed", {"person": "kim"})["person"] == "kim"
        assert "taken" not in last


def test_a_person_is_not_told_of_a_claim_that_could_not_be_recorded(
    client: TestClient, datastore: StudyDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(_: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(datastore.claims._base, "write", locked)
        assert ask(client, "kim", "POST", "claim", study="a") == {"claimed": None}
        assert ask(client, "kim", "POST", "next")["claimed"] is None
    assert datastore.claims.all().studies() == []


def test_a_time_that_is_no_time_does_not_hide_the_next_case(client: TestClient, datastore: StudyDatastore) -> None:
    for time in (10**400, float("inf"), float("nan"), -1):
        datastore.store.update_image_info("b", {"strategy": {"first": {"ts": time, "client_id": "lee"}}})
        assert ask(client, "kim", "GET", "next")["study"] == "b"


def test_a_claim_is_refused_with_the_name_of_its_holder(client: TestClient) -> None:
    claimed = ask(client, "kim", "POST", "claim", study="a")["claimed"]
    assert claimed["person"] == "kim"
    status, detail = ask(client, "lee", "POST", "claim", study="a")
    assert (status, "kim" in detail, claimed["since"] in detail) == (409, True, True)
    assert ask(client, "lee", "DELETE", "claim", study="a")[0] == 403
    assert ask(client, "reva", "DELETE", "claim", study="a") == {"claimed": None}
    assert ask(client, "lee", "POST", "claim", study="a")["claimed"]["person"] == "lee"
    assert ask(client, "lee", "DELETE", "claim", study="a") == {"claimed": None}
    for method, path in (("POST", "claim"), ("DELETE", "claim")):
        assert ask(client, "kim", method, path, study="../a")[0] == 404
    assert ask(client, "kim", "POST", "claim")[0] == 422


def test_two_people_who_ask_at_the_same_moment_get_different_cases(client: TestClient) -> None:
    ready, found = threading.Barrier(2), {}

    def next_of(name: str) -> None:
        ready.wait()
        found[name] = ask(client, name, "POST", "next")

    threads = [threading.Thread(target=next_of, args=(name,)) for name in ("kim", "lee")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one["study"] for one in found.values()} == {"b", "c"}
    assert {name: one["claimed"]["person"] for name, one in found.items()} == {"kim": "kim", "lee": "lee"}


def test_a_case_is_claimed_before_it_is_fetched(
    client: TestClient, datastore: StudyDatastore, table: ScoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict[str, Any]()

    def next_of(who: str) -> Any:
        return client.post("/activelearning/first", json={}, headers={"who": who}).json()

    def sample(strategy: str, options: dict[str, Any], name: str) -> dict[str, Any] | None:
        chosen = NextCase(strategy, table, dict)(options, datastore)
        if name == "kim":  # while the PACS sends her case, another person asks
            found["lee"] = next_of("lee")
        return chosen

    monkeypatch.setattr(next_case.activelearning, "sample", sample)
    monkeypatch.setattr(next_case, "app_instance", assignments.app_instance)
    monkeypatch.setattr(next_case, "sample_parameters", lambda *_: {})
    client.app.include_router(next_case.router)  # type: ignore[attr-defined]
    found["kim"] = next_of("kim")
    assert {name: (one["id"], one["claimed"]["person"]) for name, one in found.items()} == {
        "kim": ("a", "kim"),
        "lee": ("b", "lee"),
    }


def test_a_claim_never_blocks_saving_and_ends_when_its_person_signs_off(
    client: TestClient, datastore: StudyDatastore, tmp_path: Path
) -> None:
    ask(client, "kim", "POST", "claim", study="a")
    sign_off(datastore, tmp_path, "a", "lee")
    claim = datastore.claims.of("a")
    assert claim is not None
    assert claim.person == "kim"
    sign_off(datastore, tmp_path, "a", "kim", 7)
    assert datastore.claims.of("a") is None


def test_assignments_are_stored_listed_and_removed(client: TestClient, datastore: StudyDatastore, folder: Path) -> None:
    ask(client, "reva", "POST", "assign", study="a", person="kim")
    ask(client, "reva", "POST", "assign", study="b", person="lee")
    stored = StudyDatastore(folder).store.assignments
    assert {study: (one.person, one.by) for study, one in stored.all().items()} == {"a": ("kim", "reva"), "b": ("lee", "reva")}
    assert ask(client, "reva", "POST", "assign", study="a", person="") == {"assigned": ""}
    assert list(stored.all()) == ["b"]
    assert stored.of("a") is None
    for person in ("nobody", " kim", "kim\n"):
        assert ask(client, "reva", "POST", "assign", study="a", person=person)[0] in (404, 422)
    assert ask(client, "reva", "POST", "assign", study="x", person="kim")[0] == 404


def test_an_assignment_that_cannot_be_read_does_not_remove_the_others(
    datastore: StudyDatastore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    datastore.store.assignments.assign("a", "kim", "reva")
    file = folder / ".medsam2_atlas" / "assignments.json"
    text = json.dumps(json.loads(file.read_text()) | {"b": {"person": "lee"}, "x": None})
    file.write_text(text)
    with caplog.at_level(logging.ERROR):
        assert list(datastore.store.assignments.all()) == ["a"]
    assert "assignments.json cannot be read completely (2 invalid entries)" in caplog.text
    datastore.store.assignments.assign("c", "kim", "reva")
    assert list(datastore.store.assignments.all()) == ["a", "c"]
    assert file.with_name("assignments.json.damaged").read_text() == text


@pytest.mark.parametrize("text", ["", "{", "[]", '"kim"', "[" * 10**5])
def test_a_damaged_file_of_assignments_is_moved_away(
    datastore: StudyDatastore, folder: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = folder / ".medsam2_atlas" / "assignments.json"
    file.write_text(text)
    with caplog.at_level(logging.ERROR):
        assert datastore.store.assignments.all() == {}
    assert "assignments.json cannot be read" in caplog.text
    datastore.store.assignments.assign("b", "kim", "reva")
    assert list(datastore.store.assignments.all()) == ["b"]
    assert file.with_name("assignments.json.damaged").read_text() == text


def test_assignments_of_several_processes_do_not_overwrite_each_other(datastore: StudyDatastore) -> None:
    def assign(number: int) -> None:
        Assignments(datastore.store.work).assign(f"s{number}", "kim", "reva")

    threads = [threading.Thread(target=assign, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(datastore.store.assignments.all()) == 8


def test_erasing_a_study_erases_its_claims_and_its_assignment(
    client: TestClient, datastore: StudyDatastore, folder: Path
) -> None:
    for study in ("a", "b"):
        ask(client, "kim", "POST", "claim", study=study)
        datastore.claims.touch(study, "token:kim", "kim")
        ask(client, "reva", "POST", "assign", study=study, person="kim")
    erase(Place.of(str(folder)), "a", "consent withdrawn")
    assert list(datastore.store.assignments.all()) == ["b"]
    assert datastore.claims.all().studies() == ["b"]
    work = folder / ".medsam2_atlas"
    assert "a" not in json.loads((work / "assignments.json").read_text())


def test_an_assignment_that_is_made_during_an_erasure_is_kept(
    datastore: StudyDatastore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datastore.store.assignments.assign("a", "kim", "reva")
    thread = threading.Thread(target=datastore.store.assignments.assign, args=("c", "lee", "reva"))
    write = contents.write_json

    def slowly(content: Any, file: Path) -> None:
        if file.name == "assignments.json":
            thread.start()
            thread.join(0.3)
        write(content, file)

    monkeypatch.setattr(contents, "write_json", slowly)
    erase(Place.of(str(folder)), "a", "consent withdrawn")
    thread.join()
    assert list(datastore.store.assignments.all()) == ["c"]


def test_work_that_began_before_an_erasure_does_not_bring_a_name_back(
    client: TestClient, datastore: StudyDatastore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def erased_after_the_check(study: str, store: Any) -> None:
        check_study(study, store)
        erase(Place.of(str(folder)), study, "consent withdrawn")

    monkeypatch.setattr(assignments, "check_study", erased_after_the_check)
    status, detail = ask(client, "reva", "POST", "assign", study="a", person="kim")
    assert (status, "was just erased" in detail) == (404, True)
    assert ask(client, "kim", "POST", "claim", study="b") == {"claimed": None}
    assert (datastore.store.assignments.all(), datastore.claims.all().studies()) == ({}, [])


def test_a_reviewer_returns_a_label_map_with_a_comment(client: TestClient, datastore: StudyDatastore, tmp_path: Path) -> None:
    number = sign_off(datastore, tmp_path, "a", "kim")
    made = give_back(client, "a", number, "the spleen is cut off").json()
    assert [(one["by"], one["comment"]) for one in made["returns"]] == [("reva", "the spleen is cut off")]
    assert datastore.get_label_info("a", FINAL)["returned"]["by_id"] == "token:reva"
    sign_off(datastore, tmp_path, "a", "kim", 7)
    late = give_back(client, "a", number, "again")
    assert (late.status_code, "version 2" in late.text) == (409, True)
    listed = client.get("/datastore/label/versions", params={"label": "a"}, headers={"who": "lee"}).json()
    assert [len(version["returns"]) for version in listed] == [1, 0]
    sign_off(datastore, tmp_path, "b", "reva")
    assert give_back(client, "b", 1, "mine").status_code == 422
    for comment in ("", "x" * 2001, None, ["x"]):
        assert give_back(client, "a", 2, comment).status_code == 422  # type: ignore[arg-type]
    datastore.store.review.turn(False)
    off = give_back(client, "a", 2, "x")
    assert (off.status_code, "review stage is off" in off.text) == (409, True)


def test_annotators_cannot_see_how_long_others_worked(client: TestClient, datastore: StudyDatastore, tmp_path: Path) -> None:
    info = {"user": "kim", "confirm": True, "work": {"seconds": 61.5, "counted_by": "viewer"}}
    datastore.save_person_label("a", label(tmp_path / "signed.nii.gz", 6), FINAL, info, "token:kim")

    def seen_by(who: str) -> Any:
        versions = client.get("/datastore/label/versions", params={"label": "a"}, headers={"who": who}).json()
        return versions[0]["info"].get("work")

    assert [seen_by(who) for who in ("kim", "lee", "reva")] == [info["work"], None, info["work"]]
    assert "work" not in datastore.get_label_info("a", FINAL)
    assert "61.5" not in json.dumps(datastore.json())


def test_a_client_cannot_write_a_return(client: TestClient, datastore: StudyDatastore, tmp_path: Path) -> None:
    sign_off(datastore, tmp_path, "a", "kim")
    for key in ("returned", "returns", "work"):
        sent = {"info": json.dumps({key: [{"by": "reva"}]})}
        answer = client.put("/datastore/label/info", params={"label": "a", "tag": FINAL}, data=sent, headers={"who": "kim"})
        assert answer.status_code == 422
    assert not datastore.store.label("a", FINAL).version.returns


def test_opening_a_case_claims_it_unless_it_is_signed_off(datastore: StudyDatastore, tmp_path: Path) -> None:
    def opened(study: str, who: str) -> str:
        final = datastore.store.labels().get(study, {}).get(FINAL)
        claim = opened_by(datastore, study, user(who), final.version if final else None)
        return claim.person if claim else ""

    assert [opened("a", who) for who in ("kim", "lee", "reva")] == ["kim"] * 3
    datastore.claims.touch("a", "token:lee", "lee")  # a draft; reva only looks at the case
    sign_off(datastore, tmp_path, "a", "kim")
    assert opened("a", "lee") == "lee"  # lee began before it was signed off
    datastore.claims.finish("a", "token:lee")
    assert opened("a", "reva") == ""
    sign_off(datastore, tmp_path, "b", "kim")
    assert (opened("b", "kim"), opened("b", "reva")) == ("", "")
    assert [one.person for one in datastore.claims.all().opened("b")] == ["reva"], "kim has ended the work on it"
    datastore.store.return_label("b", FINAL, 1, Person("reva", "token:reva"), "spleen")
    assert (opened("b", "reva"), opened("b", "kim")) == ("", "kim")
    assert [one.person for one in datastore.claims.all().opened("b")] == ["reva", "kim"]


def test_a_reviewer_who_has_accepted_or_returned_a_case_has_ended_the_work_on_it(
    client: TestClient, datastore: StudyDatastore, tmp_path: Path
) -> None:
    def looking(study: str) -> list[str]:
        opened_by(datastore, study, user("reva"), datastore.store.label(study, FINAL).version)
        return [one.person for one in datastore.claims.all().opened(study)]

    for study in "ab":
        sign_off(datastore, tmp_path, study, "kim")
        assert looking(study) == ["reva"]
    accepted = client.post("/datastore/label/accept", params={"label": "a", "version": 1}, headers={"who": "reva"})
    assert (accepted.status_code, give_back(client, "b", 1, "spleen").status_code) == (200, 200)
    assert looking("a") == looking("b") == []


def test_the_viewer_learns_the_comment_and_whether_the_person_may_accept(datastore: StudyDatastore, tmp_path: Path) -> None:
    sign_off(datastore, tmp_path, "a", "kim")
    assert comment_of(None) is None
    assert comment_of(datastore.store.label("a", FINAL).version) is None
    assert [may_accept(datastore.store, "a", user(who)) for who in ROLES] == [False, False, True]
    assert not may_accept(datastore.store, "b", user("reva"))
    sign_off(datastore, tmp_path, "b", "reva")
    assert not may_accept(datastore.store, "b", user("reva"))
    version = datastore.store.return_label("a", FINAL, 1, Person("reva", "token:reva"), "spleen").version
    comment = comment_of(version)
    assert comment is not None
    assert (comment["by"], comment["text"], comment["time"]) == ("reva", "spleen", version.returned["at"])
    datastore.store.review.turn(False)
    assert not may_accept(datastore.store, "a", user("reva"))


def test_the_team_sees_its_figures_and_annotators_see_only_their_own_names(
    client: TestClient, datastore: StudyDatastore, tmp_path: Path
) -> None:
    sign_off(datastore, tmp_path, "a", "kim")
    sign_off(datastore, tmp_path, "b", "lee")
    assert datastore.signed_off.is_set()
    while measure_next(datastore.store, datastore.figures):
        pass
    for who, people in (("kim", ["kim"]), ("reva", ["kim", "lee"])):
        found = client.get("/worklist/figures", params={"days": 2}, headers={"who": who}).json()
        assert [one["person"] for one in found["people"]] == people
        assert [day["signed_off"] for day in found["days"]] == [0, 2]
    for days in (0, 3661, "x"):
        assert client.get("/worklist/figures", params={"days": days}, headers={"who": "kim"}).status_code == 422


def test_the_holder_of_a_claim_is_named(datastore: StudyDatastore) -> None:
    datastore.claims.claim("a", "token:kim", "kim")
    with pytest.raises(ConflictError, match="kim"):
        datastore.claims.claim("a", "token:lee", "lee")


def test_the_next_case_is_one_with_unsaved_work_unless_the_person_has_just_left_it(
    client: TestClient, datastore: StudyDatastore
) -> None:
    folder = datastore.store.work.path / "drafts" / "a"
    folder.mkdir(parents=True)
    (folder / f"{hashlib.sha256(b'token:kim').hexdigest()[:32]}.draft").write_bytes(b"{}")
    datastore.store.assignments.assign("c", "kim", "reva")
    assert ask(client, "lee", "POST", "next")["study"] == "b"
    first = ask(client, "kim", "POST", "next")
    assert first["study"] == "a"
    assert "you have unsaved work on it" in first["why"]
    assert ask(client, "kim", "POST", "next")["study"] == "a"
    assert ask(client, "kim", "POST", "next", **{"except": "a"})["study"] == "c"
    datastore.claims.release("b", "token:lee")
    assert ask(client, "kim", "GET", "next?except=c")["study"] == "b", "she still has the other one open"
    datastore.claims.release("a", "token:kim")
    assert ask(client, "kim", "POST", "next", **{"except": "c"})["study"] == "a"
    datastore.claims.release("a", "token:kim")
    datastore.claims.claim("a", "token:lee", "lee")
    assert ask(client, "kim", "POST", "next")["study"] == "c", "another person works on it"
