"""Assignments and figures of the team are backed up and verified; claims are not, because they end within half an hour."""

from __future__ import annotations

from pathlib import Path

from medsam2_atlas.archive import Place, back_up, restore, verify
from medsam2_atlas.base.database import Database
from medsam2_atlas.storage import CLAIMS, FIGURES, FINAL, Person, StudyStore
from medsam2_atlas.team import FigureTable, measure_next


def fill(folder: Path) -> StudyStore:
    """Assigns a case, returns its label map, computes its figures, and creates a file of claims."""
    store = StudyStore(folder)
    store.assignments.assign("a", "kim", "reva")
    store.review.turn(True)
    number = store.label("a", FINAL).version.number
    store.return_label("a", FINAL, number, Person("reva"), "spleen")
    while measure_next(store, FigureTable(store.work.path / FIGURES)):
        pass
    Database(store.work.path / CLAIMS, "CREATE TABLE opened (study TEXT)")
    return store


def test_assignments_returns_and_figures_are_restored(place: Place, folder: Path, tmp_path: Path) -> None:
    store = fill(folder)
    back_up(place, tmp_path / "dest")
    restore(tmp_path / "dest", Place.of(str(tmp_path / "back")))
    work = tmp_path / "back" / ".medsam2_atlas"
    assert not (work / CLAIMS).exists()
    again = StudyStore(tmp_path / "back")
    assert again.assignments.all() == store.assignments.all()
    assert again.label("a", FINAL).version.returned["comment"] == "spleen"
    assert FigureTable(work / FIGURES).records() == FigureTable(store.work.path / FIGURES).records() != []


def test_damaged_assignments_and_figures_are_found(place: Place, folder: Path) -> None:
    work = fill(folder).work.path
    assert not [finding for finding in verify(place).findings if finding.lost]
    (work / "assignments.json").write_text('{"a": ')
    (work / FIGURES).write_bytes(b"SQLite format 3\0" + b"\1" * 4096)
    found = {Path(finding.path).name for finding in verify(place).findings if finding.lost}
    assert found == {"assignments.json", FIGURES}
