"""Learning on a PACS measures only the next series, in limited space."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.fake_pacs import FakePacs, fake_pacs
from app.test_pacs_datastore import QUICK, label_for
from app.test_worklist_pacs import KIM, add, fetches, listed, worklist_of
from datastores.pacs_datastore import PacsDatastore
from medsam2_atlas.active_learning import Assessment, ScoreTable
from medsam2_atlas.dicom.web import DicomWeb
from medsam2_atlas.imaging.hounsfield import CHECK
from tasks.learner import Learner
from tasks.learning_ahead import LearningAhead
from tasks.worklist import Query


@pytest.fixture
def pacs() -> Iterator[FakePacs]:
    with fake_pacs() as found:
        yield found


class Shelf:
    """A learner for a PACS, whose measures are pretended."""

    def __init__(self, pacs: FakePacs, folder: Path, count: int, max_bytes: int = 10**9) -> None:
        self.datastore, self.table = listed(pacs, folder), ScoreTable(folder / "t.sqlite")
        self.running = False
        self.ahead = LearningAhead(lambda: self.datastore, count, max_bytes, lambda: self.running)
        models: Any = SimpleNamespace(atlas=lambda: SimpleNamespace(version="a1"), hu=CHECK)
        predictions: Any = SimpleNamespace(
            image=lambda study: Path(self.datastore.get_image_uri(study)),
            available=lambda role: [],
            segmenter=lambda tag: SimpleNamespace(version=lambda: ""),
        )
        self.learner = Learner(models, predictions, self.table, lambda: self.datastore, "atlas", "", self.ahead)
        self.problems: dict[str, Exception] = {}
        self.learner._assess = self._assess  # type: ignore[method-assign]

    def _assess(self, study: str) -> Assessment:
        if study in self.problems:
            raise self.problems[study]
        return Assessment({"disagreement": 0.5}, {})

    def run(self) -> None:
        while self.learner.measure_next():
            pass


def test_learning_fetches_only_the_next_few_series(pacs: FakePacs, tmp_path: Path) -> None:
    names = add(pacs, tmp_path, 6)
    shelf = Shelf(pacs, tmp_path, 2)
    shelf.datastore.store.assignments.assign(names[4], "kim", "lee")
    shelf.run()
    assert fetches(pacs) == [names[4], names[0]]
    assert shelf.learner.progress() == (2, 2)
    file = label_for(shelf.datastore, names[0], tmp_path)
    shelf.datastore.store.save_label(names[0], "final", file, author="kim")
    shelf.run()
    assert fetches(pacs) == [names[4], names[0], names[1]]
    shelf.datastore.get_image_uri(names[5])  # somebody opens another one
    shelf.run()
    assert set(shelf.table.rows()) == {names[4], names[0], names[1]}


def test_a_series_that_cannot_be_measured_is_not_among_the_next_ones(pacs: FakePacs, tmp_path: Path) -> None:
    names = add(pacs, tmp_path, 4)
    shelf = Shelf(pacs, tmp_path, 2)
    shelf.problems = {names[0]: ValueError("no voxels")}
    shelf.run()
    assert fetches(pacs) == names[:3]
    assert shelf.learner.progress() == (2, 2)


def test_learning_tries_only_a_few_series_in_a_row_if_they_cannot_be_fetched(pacs: FakePacs, tmp_path: Path) -> None:
    add(pacs, tmp_path, 8)
    for parts in pacs.objects.values():
        parts[:] = [b"not DICOM"]
    shelf = Shelf(pacs, tmp_path, 5)
    for tried in (3, 6, 8, 8, 8):
        assert not shelf.learner.measure_next()
        assert len(fetches(pacs)) == tried, "a series that cannot be used is not fetched again"
    assert shelf.learner.progress() == (0, 0), "no series is left that could be measured"
    page = worklist_of(shelf.datastore, tmp_path).page(Query(), KIM)
    assert all(row["problem"] for row in page["rows"])


def test_fetched_series_that_nobody_needs_make_room_for_new_ones(pacs: FakePacs, tmp_path: Path) -> None:
    names = add(pacs, tmp_path, 9)
    shelf = Shelf(pacs, tmp_path, 1)
    shelf.problems = dict.fromkeys(names[:7], ValueError("no voxels"))
    shelf.run()
    store, here = shelf.datastore.store, set(names[:8])
    assert set(store.images()) == here
    file = label_for(shelf.datastore, names[0], tmp_path)
    store.save_label(names[0], "mine", file, author="kim")
    store.save_prediction(names[1], "unet_3d", file)
    shelf.datastore.claims.touch(names[2], "token:kim", "kim")
    store.assignments.assign(names[3], "kim", "lee")
    (store.work.path / "drafts" / names[4]).mkdir(parents=True)
    (store.work.path / "drafts" / names[4] / f"{'0' * 32}.draft").write_bytes(b"{}")
    store.save_label(names[7], "final", label_for(shelf.datastore, names[7], tmp_path), author="kim")

    small = LearningAhead(lambda: shelf.datastore, 1, 1, lambda: shelf.running)
    small.plan([name for name in names if name != names[7]], {}, {})
    shelf.running = True
    assert not small.prepare(names[8])
    assert set(store.images()) == here, "a batch may be reading them"
    shelf.running = False
    assert not small.prepare(names[8]), "the series that are kept take too much space"
    assert set(store.images()) == here - {names[1], names[5], names[6]}
    shelf.datastore.get_image_uri(names[1])  # fetched again when it is needed, with its prediction
    assert store.label(names[1], "unet_3d").version.number == 1


def test_a_series_that_is_claimed_while_its_deletion_begins_is_kept(
    pacs: FakePacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = add(pacs, tmp_path, 2)
    shelf = Shelf(pacs, tmp_path, 1)
    shelf.problems = {names[0]: ValueError("no voxels")}
    shelf.run()
    store = shelf.datastore.store
    real = store.image

    def claimed(study: str) -> Any:
        shelf.datastore.claims.touch(study, "token:kim", "kim")  # somebody opens it before the lock is taken
        return real(study)

    small = LearningAhead(lambda: shelf.datastore, 1, 1, lambda: False)
    small.plan(names, {}, {})
    monkeypatch.setattr(shelf.datastore, "fetched_bytes", lambda study: 10)
    monkeypatch.setattr(store, "image", claimed)
    assert not small.prepare("1.2.3")
    assert set(store.images()) == set(names)


def test_a_series_that_the_pacs_no_longer_lists_is_never_deleted(pacs: FakePacs, tmp_path: Path) -> None:
    names = add(pacs, tmp_path, 2)
    shelf = Shelf(pacs, tmp_path, 2)
    shelf.run()
    pacs.series.clear()
    datastore = PacsDatastore(DicomWeb(pacs.url, limits=QUICK), tmp_path / "work")
    datastore.list_images()
    for name in names:
        assert not datastore.drop_fetched(name)
    assert np.isfinite(datastore.fetched_bytes(names[0]))
    assert set(datastore.store.images()) == set(names)
