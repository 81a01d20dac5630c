"""The worklist: states, filters, sorting and pages of cases as a person sees them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from app.listed_studies import KIM, LEE, MODELS, save_draft, sign_off
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.active_learning import Assessment, ScoreTable
from medsam2_atlas.imaging.volume import read_labels
from medsam2_atlas.segmenters.base import Report, Segmentation
from medsam2_atlas.storage import Assignment, Drafts, Person
from medsam2_atlas.studies import PredictionStore, file_stamp
from server import worklist as routes
from server.assignments import may_accept
from server.people import LOCAL, User
from tasks import case_states
from tasks.case_states import CaseTable
from tasks.next_case import NextCase
from tasks.worklist import STATES, Query, Worklist


@pytest.fixture
def worklist(datastore: StudyDatastore, table: ScoreTable) -> Worklist:
    states = CaseTable(datastore, table, MODELS)
    return Worklist(datastore, states.states, Drafts(datastore.store, 10**6).studies)


def rows(worklist: Worklist, asking: User = KIM, **query: Any) -> dict[str, dict[str, Any]]:
    return {row["study"]: row for row in worklist.page(Query(**query), asking)["rows"]}


def test_each_case_has_one_state(datastore: StudyDatastore, worklist: Worklist, label: Path) -> None:
    datastore.store.review.turn(True)
    for study in "bcdef":
        datastore.store.save_prediction(study, "unet_3d", label)
    datastore.claims.claim("c", LEE.id, LEE.name)
    for study in "def":
        sign_off(datastore, study, label)
    datastore.store.accept_label("e", "final", 1, Person("lee", "token:lee"))
    datastore.store.return_label("f", "final", 1, Person("lee", "token:lee"), "The liver lacks its tip.")
    found = rows(worklist)
    assert {study: row["state"] for study, row in found.items()} == {
        "a": "new",
        "b": "predicted",
        "c": "in work",
        "d": "waits for review",
        "e": "signed off",
        "f": "returned",
        "g.mhd": "problem",
    }
    assert worklist.page(Query(), KIM)["counts"] == dict.fromkeys(STATES, 1)
    assert found["c"]["claimed"]["person"] == "lee"
    assert found["c"]["opened"] == ["lee"]
    assert (found["e"]["accepted"], found["e"]["author"], found["e"]["version"]) == ("lee", "kim", 1)
    assert found["f"]["comment"]["text"] == "The liver lacks its tip."
    assert found["f"]["comment"]["by"] == "lee"
    assert {study: row["action"] for study, row in found.items()} == {
        "a": "segment",
        "b": "correct",
        "c": "correct",
        "d": "view",
        "e": "view",
        "f": "correct",
        "g.mhd": "fix",
    }
    assert rows(worklist, LEE)["d"]["action"] == "review"
    assert rows(worklist, User("kim", "reviewer", "token:kim"))["d"]["action"] == "view", "nobody reviews their own label map"


def test_nobody_is_asked_to_review_a_label_map_that_they_drew_and_another_person_restored(
    datastore: StudyDatastore, worklist: Worklist, label: Path, tmp_path: Path
) -> None:
    datastore.store.review.turn(True)
    sign_off(datastore, "a", label, "lee")
    array = np.zeros((12, 20, 20), np.uint8)
    array[3:8, 4:12, 4:16] = 6
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / ".sent" / "other.nii.gz"))
    sign_off(datastore, "a", tmp_path / ".sent" / "other.nii.gz", "kim")
    assert rows(worklist, LEE)["a"]["action"] == "review"
    datastore.store.restore_label("a", "final", 1, author="kim", author_id=KIM.id)
    reviewer = User("kim", "reviewer", KIM.id)
    for person, action in ((LEE, "view"), (reviewer, "review")):
        assert rows(worklist, person)["a"]["action"] == action
        assert may_accept(datastore.store, "a", person) == (action == "review")
    assert list(rows(worklist, LEE))[-1] == "a"
    assert next(iter(rows(worklist, reviewer))) == "a"


def test_a_draft_makes_a_case_one_in_work(datastore: StudyDatastore, worklist: Worklist, tmp_path: Path) -> None:
    folder = datastore.store.work.path / "drafts" / "a"
    folder.mkdir(parents=True)
    assert rows(worklist)["a"]["state"] == "new"
    (folder / f"{'0' * 32}.draft").write_bytes(b"{}")
    assert rows(worklist)["a"]["state"] == "in work"


def test_cases_of_the_person_come_first_and_those_of_others_after_the_free_ones(
    datastore: StudyDatastore, worklist: Worklist, table: ScoreTable, label: Path
) -> None:
    datastore.store.review.turn(True)
    for study, value in (("a", 0.1), ("b", 0.9), ("d", 0.5)):
        table.put(study, "s", {}, Assessment({"disagreement": value}, {}))
    datastore.store.assignments.assign("b", "ann", "lee")
    datastore.store.assignments.assign("c", "kim", "lee")
    for study in "ef":
        sign_off(datastore, study, label)
    datastore.store.return_label("e", "final", 1, Person("lee", "token:lee"), "No.")
    assert list(rows(worklist)) == ["e", "c", "g.mhd", "d", "a", "b", "f"]
    assert next(iter(rows(worklist, LEE))) == "f", "a case that waits for a review"
    assert [row["study"] for row in rows(worklist).values() if row["mine"]] == ["c"]
    datastore.claims.claim("a", LOCAL.id, LOCAL.name)
    found = rows(worklist, LOCAL)
    assert found["a"]["mine"]
    assert found["a"]["opened"] == []


def test_a_returned_case_that_is_then_assigned_is_the_assignees(
    datastore: StudyDatastore, worklist: Worklist, label: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datastore.store.review.turn(True)
    sign_off(datastore, "c", label)
    datastore.store.return_label("c", "final", 1, Person("lee", "token:lee"), "No.")
    assert next(iter(rows(worklist))) == "c"
    later = Assignment("ann", "lee", "9999-01-01T00:00:00+00:00")
    monkeypatch.setattr(datastore.store.assignments, "all", lambda: {"c": later})
    ann = User("ann", "annotator", "token:ann")
    found = {who.name: list(rows(worklist, who)) for who in (KIM, ann)}
    assert found["ann"][0] == "c"
    assert found["kim"].index("c") > found["kim"].index("f")
    assert not rows(worklist)["c"]["mine"]
    assert rows(worklist, ann)["c"]["mine"]
    earlier = Assignment("ann", "lee", "2000-01-01T00:00:00+00:00")
    monkeypatch.setattr(datastore.store.assignments, "all", lambda: {"c": earlier})
    assert next(iter(rows(worklist))) == "c"
    assert not rows(worklist, ann)["c"]["mine"], "its author knows the case"


def test_unsaved_work_of_the_person_comes_before_assigned_and_free_cases(datastore: StudyDatastore, worklist: Worklist) -> None:
    for study, who in (("d", KIM), ("e", LEE)):
        save_draft(datastore, study, who.id)
    datastore.store.assignments.assign("c", "kim", "lee")
    found = rows(worklist)
    assert list(found)[:2] == ["d", "c"]
    assert {study for study, row in found.items() if row["mine"]} == {"c", "d"}
    datastore.claims.claim("d", LEE.id, LEE.name)
    assert next(iter(rows(worklist))) == "c", "another person works on it now"


def test_cases_are_filtered(datastore: StudyDatastore, worklist: Worklist, label: Path) -> None:
    sign_off(datastore, "a", label)
    datastore.store.assignments.assign("b", "ann", "lee")
    datastore.claims.claim("c", LEE.id, LEE.name)
    confidence = {"liver": 0.3, "spleen": 0.45, "pancreas": 0.9, "bladder": 0.5}
    result = Segmentation(read_labels(label), Report(confidence=confidence))
    reports = PredictionStore(datastore.store.work, datastore.store)
    reports.save("unet_3d", "d", Path(datastore.get_image_uri("d")), {}, result)
    datastore.store.update_image_info("e", {"PatientName": "Doe^Jane", "PatientID": "77", "StudyDate": "20260102"})
    assert set(rows(worklist, states=frozenset({"signed off", "problem"}))) == {"a", "g.mhd"}
    assert [set(rows(worklist, person=name)) for name in ("kim", "ann", "lee", "max")] == [{"a"}, {"b"}, {"c"}, set()]
    assert [set(rows(worklist, organ=organ)) for organ in ("liver", "pancreas")] == [{"d"}, set()]
    assert set(rows(worklist, model="unet_3d")) == {"d"}
    assert set(rows(worklist, text="jane 2026-01")) == {"e"}
    assert set(rows(worklist, text="F.NII")) == {"f"}
    page = worklist.page(Query(text="jane"), KIM)
    assert (page["total"], sum(page["counts"].values())) == (1, 7)
    assert (page["people"], page["models"]) == (["ann", "kim", "lee"], ["unet_3d"])
    row = rows(worklist)["d"]
    assert (row["check"], row["checks"]) == ([["liver", 0.3], ["spleen", 0.45]], 2)
    assert row["look_first"] == [["liver", 0.3], ["spleen", 0.45], ["bladder", 0.5]]
    assert row["confidence"] == pytest.approx(sum(confidence.values()) / 4)
    about = rows(worklist)["e"]
    assert (about["patient"], about["date"], about["description"]) == ("Doe Jane · 77", "2026-01-02", "e.nii.gz")


def test_cases_are_sorted_and_those_without_a_value_come_last(worklist: Worklist, table: ScoreTable) -> None:
    for study, value in (("a", 0.5), ("d", 0.9), ("c", 0.1)):
        table.put(study, "s", {}, Assessment({"disagreement": value}, {}))
    assert list(rows(worklist, sort="disagreement"))[:4] == ["c", "a", "d", "b"]
    assert list(rows(worklist, sort="disagreement", down=True))[:4] == ["d", "a", "c", "b"]
    assert list(rows(worklist, sort="patient", down=True))[:2] == ["g.mhd", "f"]
    for sort in ("date", "state", "confidence", "time", "author"):
        assert len(rows(worklist, sort=sort)) == 7


def test_pages_are_cut_on_the_server(worklist: Worklist) -> None:
    first, last, beyond = (worklist.page(Query(sort="patient", page=n, size=3), KIM) for n in (1, 3, 99))
    assert ([row["study"] for row in first["rows"]], first["pages"], first["total"]) == (["a", "b", "c"], 3, 7)
    assert [row["study"] for row in last["rows"]] == ["g.mhd"]
    assert (beyond["page"], beyond["rows"]) == (3, last["rows"])
    nothing = worklist.page(Query(text="none such"), KIM)
    assert (nothing["total"], nothing["page"], nothing["pages"], nothing["rows"]) == (0, 1, 1, [])


def test_only_cases_that_have_changed_are_computed_again(
    datastore: StudyDatastore, worklist: Worklist, label: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    real = case_states._state

    def counted(facts: Any, *others: Any) -> Any:
        computed.append(facts.study)
        return real(facts, *others)

    monkeypatch.setattr(case_states, "_state", counted)
    rows(worklist)
    assert sorted(computed) == ["a", "b", "c", "d", "e", "f", "g.mhd"]
    computed.clear()
    rows(worklist)
    assert computed == []
    sign_off(datastore, "b", label)
    assert rows(worklist)["b"]["state"] == "signed off"
    assert computed == ["b"]


def test_a_new_report_is_shown(datastore: StudyDatastore, worklist: Worklist, label: Path) -> None:
    reports = PredictionStore(datastore.store.work, datastore.store)
    for sure in (0.25, 0.75):
        result = Segmentation(read_labels(label), Report(confidence={"liver": sure}))
        reports.save("unet_3d", "a", Path(datastore.get_image_uri("a")), {}, result)
        assert rows(worklist)["a"]["confidence"] == sure


def test_a_broken_case_does_not_hide_the_others(
    datastore: StudyDatastore, worklist: Worklist, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = case_states._about

    def broken(facts: Any) -> Any:
        if facts.study == "c":
            raise RuntimeError("broken")
        return real(facts)

    monkeypatch.setattr(case_states, "_about", broken)
    found = rows(worklist)
    assert len(found) == 7
    assert found["c"]["state"] == "problem"
    assert "cannot be listed (broken)" in found["c"]["problem"]


def test_a_ct_that_only_measuring_finds_unusable_has_to_be_fixed(
    datastore: StudyDatastore, worklist: Worklist, table: ScoreTable, label: Path
) -> None:
    for study in "abc":
        stamp = file_stamp(Path(datastore.get_image_uri(study)))
        table.put(study, stamp, {}, None, f"{study}.nii.gz: contains no CT.", unusable=True)
    datastore.store.save_prediction("b", "unet_3d", label)
    sign_off(datastore, "c", label)
    found = rows(worklist)
    assert {study: (found[study]["state"], found[study]["action"]) for study in "abcd"} == {
        "a": ("problem", "fix"),
        "b": ("predicted", "correct"),
        "c": ("signed off", "view"),
        "d": ("new", "segment"),
    }
    assert [found[study]["problem"] for study in "ac"] == ["a.nii.gz: contains no CT.", ""]
    assert next(iter(found)) == "a", "problems come before free cases"


def test_a_ct_that_was_replaced_after_its_measuring_failed_is_new_again(
    datastore: StudyDatastore, worklist: Worklist, table: ScoreTable
) -> None:
    image = Path(datastore.get_image_uri("a"))
    for study in "abcdef":  # none is measured, so that the first usable case is the next one
        stamp = file_stamp(Path(datastore.get_image_uri(study)))
        table.put(study, stamp, {}, None, f"{study}.nii.gz: contains no CT.", unusable=study < "c")
    strategy = NextCase("disagreement", table, dict)
    assert rows(worklist)["a"]["state"] == rows(worklist)["b"]["state"] == "problem"
    image.write_bytes(Path(datastore.get_image_uri("f")).read_bytes() + b" ")
    datastore.store.refresh()
    found = rows(worklist)["a"]
    assert (found["state"], found["action"], found["problem"]) == ("new", "segment", "")
    assert rows(worklist)["b"]["state"] == "problem"
    assert (strategy({}, datastore) or {})["id"] == "a"


def test_a_case_on_which_only_a_model_fails_stays_new_and_says_why(
    datastore: StudyDatastore, worklist: Worklist, table: ScoreTable
) -> None:
    table.put("a", file_stamp(Path(datastore.get_image_uri("a"))), {}, None, "a: CUDA is out of memory.")
    found = rows(worklist)["a"]
    assert (found["state"], found["action"], found["problem"]) == ("new", "segment", "a: CUDA is out of memory.")


@pytest.mark.parametrize(
    "info",
    [
        {"PatientName": "<script>alert(1)</script>", "PatientID": "\x1b[31m\n\x00", "StudyDate": "20261399"},
        {"PatientName": {"Alphabetic": "x"}, "PatientID": ["x"], "StudyDate": 20260102, "SeriesDescription": None},
        {"PatientName": "\ud800" + "x" * 10_000, "StudyDescription": 1e308},
    ],
)
def test_hostile_attributes_stay_short_texts(datastore: StudyDatastore, worklist: Worklist, info: dict[str, Any]) -> None:
    image = datastore.store.images()["a"]
    facts = case_states._Facts("a", type(image)("a", image.file, info), {}, None, None, {}, (), False, True)
    state = case_states._state(facts, MODELS, PredictionStore(datastore.store.work, datastore.store))
    texts = (state.patient, state.date, state.description)
    assert all(isinstance(text, str) and len(text) < 600 for text in texts)
    assert not re.search(r"[\x00-\x1f\ud800-\udfff]", "".join(texts))
    assert not state.date or re.fullmatch(r"\d{4}-\d\d-\d\d", state.date)


def test_the_viewer_marks_the_same_organs_as_the_worklist() -> None:
    panel = Path(routes.__file__).parent / "annotator" / "panel" / "organs.js"
    found = re.search(r"NEEDS_A_LOOK = ([\d.]+);", panel.read_text(encoding="utf-8"))
    assert found is not None
    assert float(found[1]) == case_states.NEEDS_A_LOOK
