"""The figures of each version are computed once, from the stored versions, and again if the table is lost."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medsam2_atlas.archive import Place
from medsam2_atlas.erasing import erase
from medsam2_atlas.storage import FIGURES, FINAL, StudyStore
from medsam2_atlas.team import FigureTable, Record, measure_next, measuring
from storage.test_store import SHAPE, ct, write

LIVER = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        ct(tmp_path / "studies", name)
    return tmp_path / "studies"


@pytest.fixture
def store(folder: Path) -> StudyStore:
    return StudyStore(folder)


@pytest.fixture
def table(folder: Path, store: StudyStore) -> FigureTable:
    return FigureTable(folder / ".medsam2_atlas" / FIGURES)


def block(folder: Path, planes: int) -> Path:
    """Writes a label map with `planes` planes of 9 voxels of the liver; a voxel has 0.008 ml."""
    array = np.zeros(SHAPE, np.uint8)
    array[1 : 1 + planes, 1:4, 1:4] = LIVER
    return write(folder.parent / f"label{planes}.nii.gz", array)


def sign_off(store: StudyStore, planes: int, author: str, base: Any = "unknown", **work: Any) -> int:
    info: dict[str, Any] = {"from": "viewer", "base": base} if base != "unknown" else {}
    if work:
        info["work"] = work
    file = block(store.path, planes)
    return store.save_label("a", FINAL, file, author=author, author_id=f"token:{author}", info=info).label.version.number


def measured(store: StudyStore, table: FigureTable) -> list[Record]:
    while measure_next(store, table):
        pass
    return table.records()


def test_edits_dice_and_time_of_a_version_come_from_its_record_and_its_start(store: StudyStore, table: FigureTable) -> None:
    store.save_prediction("a", "atlas", block(store.path, 2))
    time.sleep(0.01)
    sign_off(store, 3, "kim", {"tag": "atlas", "version": 1}, seconds=90.0, counted_by="viewer", organs={"6": 30.5})
    (record,) = measured(store, table)
    assert (record.author, record.start, record.seconds, record.organ_seconds) == ("kim", "atlas", 90.0, {LIVER: 30.5})
    assert (record.edited_voxels, record.edited_ml) == ({LIVER: 9}, {LIVER: 0.072})
    assert record.dice == {"atlas": {LIVER: 0.8}}
    assert record.predicted == {"atlas": (LIVER,)}
    assert record.first_start == "atlas"
    sign_off(store, 4, "kim", {"tag": "final", "version": 1})
    sign_off(store, 4, "lee", {"tag": "atlas", "version": 1})
    _, second, third = measured(store, table)
    assert (second.start, second.first_start) == ("final", "atlas")
    assert [(pair.number, pair.same_start) for pair in third.pairs] == [(2, True)]  # kim began with the same prediction


def test_a_later_prediction_is_not_compared_and_a_version_from_nothing_is_all_edited(
    store: StudyStore, table: FigureTable
) -> None:
    sign_off(store, 2, "kim", None)
    store.save_prediction("a", "atlas", block(store.path, 2))
    sign_off(store, 3, "lee", {"tag": "atlas", "version": 1})
    sign_off(store, 4, "max")
    first, second, third = measured(store, table)
    assert (first.start, first.edited_voxels, first.dice, first.seconds) == ("", {LIVER: 18}, {}, None)
    assert (second.edited_voxels, second.dice) == ({LIVER: 9}, {})
    assert (second.pairs, second.untold) == ((), ("token:kim",))  # the prediction may be made from the first version
    assert (third.start, third.first_start, third.edited_voxels, len(third.untold)) == (None, None, None, 2)


def test_independent_versions_of_two_people_are_compared(store: StudyStore, table: FigureTable) -> None:
    sign_off(store, 2, "kim", None)
    sign_off(store, 3, "lee", None)
    sign_off(store, 4, "max", {"tag": "final", "version": 1})
    _, second, third = measured(store, table)
    assert [(pair.author, pair.number, pair.same_start, pair.dice) for pair in second.pairs] == [
        ("kim", 1, False, {LIVER: 0.8})
    ]
    assert [(pair.author, pair.dice) for pair in third.pairs] == [("lee", {LIVER: round(6 / 7, 4)})]
    assert (third.untold, third.edited_voxels) == ((), {LIVER: 18})


def test_each_version_is_measured_once(store: StudyStore, table: FigureTable, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_off(store, 2, "kim", None)
    assert len(measured(store, table)) == 1
    asked: list[int] = []
    original = measuring._record

    def count(versions: Any, version: Any) -> Record:
        asked.append(version.number)
        return original(versions, version)

    monkeypatch.setattr(measuring, "_record", count)
    assert not measure_next(store, table)
    sign_off(store, 3, "kim", {"tag": "final", "version": 1})
    assert len(measured(store, table)) == 2
    assert asked == [2]


def test_a_lost_table_is_filled_again(store: StudyStore, table: FigureTable, folder: Path) -> None:
    sign_off(store, 2, "kim", None)
    before = measured(store, table)
    (folder / ".medsam2_atlas" / FIGURES).unlink()
    assert table.records() == []
    assert measured(store, table) == before


def test_a_damaged_version_does_not_stop_the_others(
    store: StudyStore, table: FigureTable, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sign_off(store, 2, "kim", None, seconds=60.0)
    sign_off(store, 3, "kim", {"tag": "final", "version": 1})
    (folder / ".medsam2_atlas/versions/final/a/00001.nii.gz").write_bytes(b"x")
    store.save_label("b", FINAL, block(folder, 2), author="lee")
    with caplog.at_level(logging.WARNING):
        first, second, third = measured(store, table)
    assert (first.seconds, first.edited_voxels, second.edited_voxels, third.author) == (60.0, None, None, "lee")
    assert "cannot be" in caplog.text
    record = folder / ".medsam2_atlas/versions/final/b/00001.json"
    store.save_label("b", FINAL, block(folder, 3), author="lee")
    record.write_text("{")
    measured(store, table)
    assert not measure_next(store, table)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError(), ValueError("x"), RecursionError()])
@pytest.mark.parametrize("where", ["labels", "__init__"])
def test_no_error_of_a_study_keeps_the_others_from_their_figures(
    store: StudyStore, table: FigureTable, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    sign_off(store, 2, "kim", None, seconds=60.0)
    store.save_label("b", FINAL, block(folder, 2), author="lee")
    original = getattr(measuring._Versions, where)

    def fail(self: Any, *arguments: Any) -> Any:
        if "a" in (*arguments, getattr(self, "study", "")):
            raise error
        return original(self, *arguments)

    monkeypatch.setattr(measuring._Versions, where, fail)
    found = measured(store, table)
    assert [one.author for one in found] == (["kim", "lee"] if where == "labels" else ["lee"])
    assert not measure_next(store, table)


def test_an_error_of_the_table_is_not_taken_for_one_of_a_study(
    store: StudyStore, table: FigureTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_off(store, 2, "kim", None)

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(table, "known", fail)
        with pytest.raises(sqlite3.OperationalError):
            measure_next(store, table)
    assert [one.author for one in measured(store, table)] == ["kim"]


def test_an_erased_study_leaves_no_figures(store: StudyStore, table: FigureTable, folder: Path) -> None:
    sign_off(store, 2, "kim", None)
    store.save_label("b", FINAL, block(folder, 2), author="lee")
    assert len(measured(store, table)) == 2
    erase(Place.of(str(folder)), "a", "consent withdrawn")
    assert [one.study for one in table.records()] == ["b"]
    assert [one.study for one in measured(store, table)] == ["b"]


def test_records_of_another_form_are_left_out(table: FigureTable, caplog: pytest.LogCaptureFixture) -> None:
    table.put("a", "x", [("m", Record("a", 1, "kim", "", "2026-11-27T10:00:00+00:00"))], ())
    table._base.write(lambda base: base.execute("INSERT INTO versions VALUES ('b', 1, 'm', '2026', '{}')"))
    with caplog.at_level(logging.WARNING):
        assert [one.study for one in table.records()] == ["a"]
    assert table.records("2026-11-28") == []
    assert "cannot be read" in caplog.text
