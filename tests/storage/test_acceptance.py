"""The review stage: models learn from a version of a `final` label map only after another person has accepted it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medsam2_atlas.base.errors import ConflictError, InputError
from medsam2_atlas.cli import app
from medsam2_atlas.cli.cases import annotated_cases
from medsam2_atlas.storage import FINAL, Person, StudyStore, Version
from storage.test_store import label

LEE = Person("lee", "token:lee")


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> StudyStore:
    """Returns a store with the review stage on, and with label maps of `a` and `b` that kim has signed off."""
    store = StudyStore(folder)
    for name in ("a", "b"):
        store.save_label(name, FINAL, label(tmp_path / "x.nii.gz", 6), author="kim")
    store.review.turn(True)
    return store


def learnt(folder: Path) -> list[str]:
    return [files.name for files in annotated_cases(folder, {})]


def test_models_learn_only_from_label_maps_that_a_reviewer_has_accepted(store: StudyStore, folder: Path) -> None:
    with pytest.raises(InputError, match="no annotated CTs"):
        learnt(folder)
    assert store.accept_label("a", FINAL, 1, LEE).version.accepted["by"] == "lee"
    skipped: dict[str, str] = {}
    assert [files.name for files in annotated_cases(folder, skipped)] == ["a"]
    assert "no reviewer has accepted that version yet" in skipped["b"]
    with pytest.raises(InputError, match="no reviewer has accepted"):
        annotated_cases(folder, None)
    store.review.turn(False)
    assert learnt(folder) == ["a", "b"]


def test_an_acceptance_does_not_apply_to_the_next_version(store: StudyStore, folder: Path, tmp_path: Path) -> None:
    store.accept_label("a", FINAL, 1, LEE)
    assert StudyStore(folder).label("a", FINAL).version.accepted["by_id"] == "token:lee"
    store.save_label("a", FINAL, label(tmp_path / "y.nii.gz", 7), author="kim")
    assert not store.label("a", FINAL).version.accepted
    assert not store.restore_label("a", FINAL, 1, author="kim").label.version.accepted
    assert not store.confirm_label("a", FINAL, author="kim").label.version.accepted
    with pytest.raises(InputError, match="no annotated CTs"):
        learnt(folder)


def test_only_the_current_version_can_be_accepted(store: StudyStore, tmp_path: Path) -> None:
    store.save_label("a", FINAL, label(tmp_path / "y.nii.gz", 7), author="kim")
    for number in (1, 3):
        with pytest.raises(ConflictError, match="now has version 2 under final"):
            store.accept_label("a", FINAL, number, LEE)
    store.save_label("a", "draft", label(tmp_path / "y.nii.gz", 7), author="kim")
    with pytest.raises(InputError, match="only final"):
        store.accept_label("a", "draft", 1, LEE)


@pytest.mark.parametrize("again", ["", "restored", "confirmed"])
def test_reviewers_cannot_accept_their_own_label_maps(store: StudyStore, tmp_path: Path, again: str) -> None:
    number = 1
    if again == "restored":
        store.save_label("a", FINAL, label(tmp_path / "y.nii.gz", 7), author="max")
        number = store.restore_label("a", FINAL, 1, author="max").label.version.number
    if again == "confirmed":
        number = store.confirm_label("a", FINAL, author="max").label.version.number
    for person in (Person("kim", "token:kim"), Person("Kim")):
        with pytest.raises(InputError, match="cannot accept their own"):
            store.accept_label("a", FINAL, number, person)
    assert store.accept_label("a", FINAL, number, Person("max")).version.accepted["by"] == "max"
    assert store.accept_label("a", FINAL, number, LEE).version.accepted["by"] == "max"  # the first acceptance stays


def test_people_of_the_same_name_are_distinguished_by_their_ids(store: StudyStore, tmp_path: Path) -> None:
    store.save_label("a", FINAL, label(tmp_path / "y.nii.gz", 7), author="kim", author_id="oidc:x#1")
    with pytest.raises(InputError, match="cannot accept their own"):
        store.accept_label("a", FINAL, 2, Person("another name", "oidc:x#1"))
    assert store.accept_label("a", FINAL, 2, Person("kim", "oidc:x#2")).version.accepted["by_id"] == "oidc:x#2"


def test_a_client_cannot_accept_a_label_map_with_the_info_that_it_sends(
    store: StudyStore, folder: Path, tmp_path: Path
) -> None:
    sent = {"accepted": {"by": "lee", "at": "2026"}}
    store.save_label("a", FINAL, label(tmp_path / "y.nii.gz", 7), author="kim", info=sent)
    store.update_label_info("a", FINAL, sent)
    with pytest.raises(InputError, match="no annotated CTs"):
        learnt(folder)


def test_a_damaged_note_never_turns_the_review_stage_off(store: StudyStore, folder: Path) -> None:
    for text in ("", "[]", "{}", '{"on": tr'):
        (folder / ".medsam2_atlas" / "review.json").write_text(text)
        assert StudyStore(folder).review.on, text


def test_a_record_without_an_acceptance_has_the_format_of_earlier_releases(store: StudyStore, folder: Path) -> None:
    record = folder / ".medsam2_atlas" / "versions" / FINAL / "a" / "00001.json"
    assert "accepted" not in json.loads(record.read_text())
    assert "returns" not in json.loads(record.read_text())
    for damaged in ("x", 3, {"a": 1}, ["a"]):
        assert Version.from_json(json.dumps({**json.loads(record.read_text()), "returns": damaged})).returns == ()
    for damaged in ("x", 3, ["a"]):
        assert Version.from_json(json.dumps({**json.loads(record.read_text()), "accepted": damaged})).accepted == {}


def test_a_command_accepts_a_label_map(
    store: StudyStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "kim")
    refused = CliRunner().invoke(app, ["labels", "accept", str(folder), "a", "1"])
    assert isinstance(refused.exception, InputError)
    monkeypatch.setenv("LOGNAME", "lee")
    ran = CliRunner().invoke(app, ["labels", "accept", str(folder), "a", "1"])
    assert "version 1 is accepted by lee" in ran.output
    monkeypatch.setenv("COLUMNS", "300")
    assert "accepted by" in CliRunner().invoke(app, ["labels", "list", str(folder)]).output
    assert learnt(folder) == ["a"]


def test_models_never_learn_from_a_returned_label_map(store: StudyStore, folder: Path, tmp_path: Path) -> None:
    store.accept_label("a", FINAL, 1, LEE)
    version = store.return_label("a", FINAL, 1, LEE, " spleen:\tcut off\x00\n").version
    assert (version.returned["by"], version.returned["comment"], version.accepted) == ("lee", "spleen: cut off", {})
    skipped: dict[str, str] = {}
    for on in (True, False):  # also if the stage is turned off later
        store.review.turn(on)
        with contextlib.suppress(InputError):
            assert "a" not in [files.name for files in annotated_cases(folder, skipped)]
        assert "lee has returned that version" in skipped["a"]
    store.review.turn(True)
    # a newer version is not returned; the comment stays with the version that it is about
    store.save_label("a", FINAL, label(tmp_path / "y.nii.gz", 7), author="kim")
    assert not store.label("a", FINAL).version.returned
    assert not store.restore_label("a", FINAL, 1, author="kim").label.version.returns
    assert StudyStore(folder).versions("a", FINAL)[0].returned["comment"] == "spleen: cut off"


def test_a_returned_version_can_be_accepted_later_and_keeps_its_comments(store: StudyStore, folder: Path) -> None:
    store.return_label("a", FINAL, 1, LEE, "first")
    store.return_label("a", FINAL, 1, Person("max"), "second")
    store.return_label("a", FINAL, 1, LEE, "third")  # a reviewer's later comment replaces the earlier one
    assert [entry["comment"] for entry in store.label("a", FINAL).version.returns] == ["second", "third"]
    accepted = store.accept_label("a", FINAL, 1, Person("max")).version
    assert (accepted.returned, len(accepted.returns)) == ({}, 2)
    assert learnt(folder) == ["a"]
    assert StudyStore(folder).label("a", FINAL).version == accepted


def test_a_return_is_refused_as_an_acceptance_is(store: StudyStore, tmp_path: Path) -> None:
    store.save_label("a", FINAL, label(tmp_path / "y.nii.gz", 7), author="kim")
    with pytest.raises(ConflictError, match="now has version 2 under final"):
        store.return_label("a", FINAL, 1, LEE, "x")
    for person in (Person("kim", "token:kim"), Person("Kim")):
        with pytest.raises(InputError, match="cannot return their own"):
            store.return_label("a", FINAL, 2, person, "x")
    for comment in ("", " \n", "\u200b", "x" * 2001):
        with pytest.raises(InputError, match="comment"):
            store.return_label("a", FINAL, 2, LEE, comment)
    store.review.turn(False)
    with pytest.raises(ConflictError, match="review stage is off"):
        store.return_label("a", FINAL, 2, LEE, "x")
    assert not store.label("a", FINAL).version.returns


def test_a_command_returns_a_label_map(store: StudyStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "lee")
    ran = CliRunner().invoke(app, ["labels", "return", str(folder), "a", "1", "--comment", "spleen"])
    assert "version 1 is returned" in ran.output
    monkeypatch.setenv("COLUMNS", "300")
    assert "returned by" in CliRunner().invoke(app, ["labels", "list", str(folder)]).output
    assert store.label("a", FINAL).version.returned["comment"] == "spleen"


def test_models_learn_only_from_final_label_maps_without_a_problem(folder: Path, tmp_path: Path) -> None:
    store = StudyStore(folder)
    for tag in ("original", "draft"):
        store.save_label("a", tag, label(tmp_path / "x.nii.gz", 6))
    for tag in ("medsam2_atlas", "unet_3d"):
        store.save_prediction("a", tag, label(tmp_path / "x.nii.gz", 6))
    store.save_label("b", FINAL, label(tmp_path / "x.nii.gz", 6), author="kim")
    with pytest.raises(InputError, match="no annotated CTs"):
        store.remove_label("b", FINAL)
        learnt(folder)
    (folder / "labels" / FINAL / "b.nii.gz").write_bytes(label(tmp_path / "bad.nii.gz", 99).read_bytes())
    skipped: dict[str, str] = {}
    with pytest.raises(InputError, match="no annotated CTs"):
        annotated_cases(folder, skipped)
    assert "b" in skipped
