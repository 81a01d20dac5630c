"""After a command has erased a study, the server removes it from memory, does not fetch it again, and stores none of it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app.fake_pacs import FakePacs, fake_pacs
from datastores.pacs_datastore import PacsDatastore
from medsam2_atlas.active_learning import Assessment, ScoreTable
from medsam2_atlas.archive import Place
from medsam2_atlas.base.errors import NotFoundError, StorageError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.jobs import JobQueue
from medsam2_atlas.cli import app
from medsam2_atlas.dicom import uid_folder_name
from medsam2_atlas.dicom.web import DicomWeb
from medsam2_atlas.erasing import erase
from medsam2_atlas.imaging.hounsfield import CHECK
from medsam2_atlas.imaging.volume import read_volume, write_volume
from medsam2_atlas.segmenters.base import Report, Segmentation
from medsam2_atlas.storage import StudyStore, WorkFolder
from medsam2_atlas.studies import PredictionStore
from series_files import upright, write_series
from server.erasures import finish_interrupted, watch_erasures
from storage.test_store import ct
from tasks.learner import Learner
from waiting import until

ARRAY = np.random.default_rng(2).integers(-1000, 1000, (6, 20, 24))
UID, OTHER = "1.2.826.777.1", "1.2.826.777.2"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAM2_ATLAS_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("MEDSAM2_ATLAS_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("MEDSAM2_ATLAS", raising=False)


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[FakePacs]:
    with fake_pacs() as found:
        for series in (UID, OTHER):
            found.add(write_series(tmp_path / "dicom" / series[-1], upright(ARRAY)), series=series, study="1.2.3")
        yield found


def datastore_of(pacs: FakePacs) -> PacsDatastore:
    return PacsDatastore(DicomWeb(pacs.url), WorkFolder.of(pacs.url).folder("."))


def signed_off(datastore: PacsDatastore, series: str, folder: Path) -> None:
    image = read_volume(datastore.get_image_uri(series))
    array = np.zeros(image.array.shape, np.uint8)
    array[1:4, 2:9, 3:12] = 6
    write_volume(image.with_array(array), folder / "label.nii.gz")
    datastore.save_person_label(series, folder / "label.nii.gz", "final", {"user": "kim"})
    (folder / "label.nii.gz").unlink()


def test_an_erased_series_in_the_pacs_is_not_fetched_again(pacs: FakePacs, tmp_path: Path) -> None:
    datastore = datastore_of(pacs)
    for series in (UID, OTHER):
        signed_off(datastore, series, tmp_path)
    sent = datastore.get_label_info(UID, "final")["pacs"]
    work = WorkFolder.of(pacs.url).path
    mine = {sha256(path) for path in work.rglob("*") if path.is_file() and UID in str(path)}
    mine |= {sha256(path) for path in (work / "series" / uid_folder_name(UID)).iterdir()}
    mine -= {sha256(path) for path in work.rglob("*") if path.is_file() and OTHER in str(path)}
    ran = CliRunner().invoke(app, ["studies", "erase", pacs.url, UID, "--reason", "consent withdrawn", "--yes"])
    assert ran.exit_code == 0, ran.output
    assert sent["instance"] in ran.output  # the command lists the objects in the PACS
    for _ in range(2):
        asked = len(pacs.asked)
        assert datastore.list_images() == [OTHER]
        assert datastore.get_unlabeled_images() == []
        with pytest.raises(NotFoundError):
            datastore.get_image_uri(UID)
        assert not [path for path in pacs.asked[asked:] if path.endswith(f"/series/{UID}")]
        for path in work.rglob("*"):
            assert UID not in path.name, path
            assert not path.is_file() or (UID.encode() not in path.read_bytes() and sha256(path) not in mine), path
        datastore = datastore_of(pacs)  # after a restart
    assert UID not in json.dumps(json.loads((work / "series.json").read_text()))
    os.umask(0o022)  # the user of the next command may have this umask
    assert CliRunner().invoke(app, ["studies", "readmit", pacs.url, UID]).exit_code == 0
    assert {file.stat().st_mode & 0o777 for file in work.rglob("erased.json")} == {0o600}
    assert datastore_of(pacs).get_image_uri(UID)


def test_a_series_can_be_erased_before_it_is_fetched(pacs: FakePacs) -> None:
    datastore = datastore_of(pacs)
    assert UID in datastore.list_images()
    erase(Place.existing(pacs.url), UID, "consent withdrawn")
    assert datastore.list_images() == [OTHER]


@pytest.mark.parametrize("moment", ["before it is added", "after it was added"])
def test_a_series_erased_while_it_is_fetched_is_not_stored(
    pacs: FakePacs, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    datastore = datastore_of(pacs)
    add = datastore.store.add_image

    def late(*arguments: Any) -> Any:
        made = add(*arguments) if moment.startswith("after") else None
        erase(Place.existing(pacs.url), UID, "consent withdrawn")
        return made or add(*arguments)

    datastore.list_images()
    monkeypatch.setattr(datastore.store, "add_image", late)
    with pytest.raises(StorageError, match="was erased"):
        datastore.get_image_uri(UID)
    work = WorkFolder.of(pacs.url).path
    assert not (work / "series" / uid_folder_name(UID)).exists()
    assert not [path for path in work.rglob("*") if UID in path.name]


def test_a_prediction_that_ends_after_the_erasure_is_not_stored(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    image = ct(folder, "gone")
    store = StudyStore(folder)
    volume = read_volume(image)
    labels = volume.with_array(np.full(volume.array.shape, 6, np.uint8))
    predictions = PredictionStore(store.work, store)
    save = store.save_prediction

    def late(*arguments: Any, **options: Any) -> Any:
        saved = save(*arguments, **options)
        erase(Place.existing(str(folder)), "gone", "consent withdrawn")
        return saved

    store.save_prediction = late  # type: ignore[method-assign]
    with pytest.raises(NotFoundError):
        predictions.save("unet_3d", "gone", image, {}, Segmentation(labels, Report(image="gone")))
    assert not [path for path in folder.rglob("*") if "gone" in path.name]


def test_measures_that_end_after_the_erasure_are_not_stored(tmp_path: Path) -> None:
    from types import SimpleNamespace

    image = tmp_path / "gone.nii.gz"
    image.write_bytes(b"x")
    store: Any = SimpleNamespace(get_unlabeled_images=lambda: ["gone"])
    models: Any = SimpleNamespace(atlas=lambda: SimpleNamespace(version="1"), hu=CHECK)
    predictions: Any = SimpleNamespace(image=lambda study: image, available=lambda role: [])
    predictions.segmenter = lambda tag: SimpleNamespace(version=lambda: "")
    table = ScoreTable(tmp_path / "t.sqlite")
    learner = Learner(models, predictions, table, lambda: store, "atlas")

    def assess(_: str) -> Assessment:
        image.unlink()
        return Assessment({"novelty": 0.5}, {})

    learner._assess = assess  # type: ignore[method-assign]
    assert learner.measure_next()
    assert table.rows() == {}


def test_jobs_and_results_of_an_erased_study_are_removed(tmp_path: Path) -> None:
    folder, disposed = tmp_path / "studies", []
    ct(folder, "gone")
    ct(folder, "other")
    store = StudyStore(folder)
    queue = JobQueue(dispose=disposed.append)
    release = threading.Event()
    try:
        done = [queue.submit("atlas", study, lambda study=study: study) for study in ("gone", "other")]  # type: ignore[misc]
        assert [job.outcome.result(10) for job in done] == ["gone", "other"]
        queue.submit("atlas", "other", lambda: release.wait(20))
        waiting = queue.submit("atlas", "gone", lambda: "never")
        looks: list[int] = []

        def forget_cases() -> bool:
            looks.append(len(looks))
            return len(looks) >= 3  # a case was running at the first two calls

        stop = watch_erasures(queue, store.erased, forget_cases, seconds=0.02)
        time.sleep(0.1)
        assert not looks
        erase(Place.existing(str(folder)), "gone", "consent withdrawn")
        until(lambda: {job.subject for job in queue.jobs()} == {"other"}, 10)
        assert disposed == ["gone"]
        until(lambda: len(looks) == 3, 10)
        assert waiting.state == "cancelled"
        ct(folder, "gone")  # another patient's image of that name
        time.sleep(0.1)
        assert len(looks) == 3
        later = queue.submit("atlas", "gone", lambda: "new")
        release.set()
        assert later.outcome.result(10) == "new"
        stop()
    finally:
        release.set()
        queue.stop()


def test_a_server_finishes_an_interrupted_erasure_before_it_serves(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    ct(folder, "gone")
    plans = folder / ".medsam2_atlas" / "erasing"
    plans.mkdir(parents=True)
    plan = {"study": "gone", "reason": "consent withdrawn", "checksums": [], "final": False}
    (plans / "1.json").write_text(json.dumps(plan))
    finish_interrupted(str(folder))
    assert not (folder / "gone.nii.gz").exists()
    assert not list(plans.iterdir())
    (plans / "1.json").write_text(json.dumps(plan | {"study": "../studies"}))
    finish_interrupted(str(folder))  # logs the error, so that the server starts
    assert folder.exists()
