"""Claims, assignments, the next case and figures of a PACS, also of series that have not been fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.fake_pacs import FakePacs, fake_pacs
from app.test_pacs_datastore import ARRAY, datastore_of, label_for
from datastores.pacs_datastore import PacsDatastore
from medsam2_atlas.active_learning import ScoreTable
from medsam2_atlas.archive import Place
from medsam2_atlas.erasing import erase
from medsam2_atlas.storage import FINAL
from medsam2_atlas.team import measure_next
from series_files import upright, write_series
from server.assignments import opened_by
from server.people import User
from tasks.annotated_case import title_of
from tasks.next_case import NextCase

KIM = User("kim", "annotator", "token:kim")


@pytest.fixture
def pacs() -> Iterator[FakePacs]:
    with fake_pacs() as found:
        yield found


@pytest.fixture
def datastore(pacs: FakePacs, tmp_path: Path) -> PacsDatastore:
    """Returns the datastore of three series, of which none has been fetched."""
    files = write_series(tmp_path / "files", upright(ARRAY))
    for number in range(1, 4):
        pacs.add(files, series=f"1.2.{number}", study=f"1.3.{number}")
    found = datastore_of(pacs, tmp_path)
    assert found.list_images() == ["1.2.1", "1.2.2", "1.2.3"]
    return found


def next_of(datastore: PacsDatastore, folder: Path, who: str) -> str:
    strategy = NextCase("first", ScoreTable(folder / "t.sqlite"), dict)
    return str((strategy({"person": f"token:{who}", "person_name": who}, datastore) or {}).get("id"))


def test_series_are_claimed_and_assigned_before_they_are_fetched(
    datastore: PacsDatastore, pacs: FakePacs, tmp_path: Path
) -> None:
    assert opened_by(datastore, "1.2.1", KIM, None) is not None
    datastore.store.assignments.assign("1.2.3", "lee", "reva")
    assert [next_of(datastore, tmp_path, who) for who in ("kim", "lee", "max")] == ["1.2.1", "1.2.3", "1.2.2"]
    assert not datastore.store.images()  # nothing was fetched


def test_figures_of_a_fetched_series_are_erased_with_it(datastore: PacsDatastore, pacs: FakePacs, tmp_path: Path) -> None:
    for series in ("1.2.1", "1.2.2"):
        info = {"user": "kim", "from": "viewer", "base": None, "work": {"seconds": 60.0}}
        datastore.save_person_label(series, label_for(datastore, series, tmp_path), FINAL, info, "token:kim")
        datastore.claims.touch(series, "token:lee", "lee")
        datastore.store.assignments.assign(series, "lee", "reva")
    while measure_next(datastore.store, datastore.figures):
        pass
    assert [(one.study, one.seconds, one.start) for one in datastore.figures.records()] == [
        ("1.2.1", 60.0, ""),
        ("1.2.2", 60.0, ""),
    ]
    assert title_of(datastore, "1.2.1") == "abdomen"  # its description
    work = tmp_path / "work"
    erase(Place("pacs", "0", work, work / "store", work, True), "1.2.1", "consent withdrawn")
    assert [one.study for one in datastore.figures.records()] == ["1.2.2"]
    assert datastore.claims.all().studies() == ["1.2.2"]
    assert list(datastore.store.assignments.all()) == ["1.2.2"]
