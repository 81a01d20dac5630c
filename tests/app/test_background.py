"""Background measuring, the choice of the next case, scoring and batches, without a server."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.active_learning import Assessment, ScoreTable
from medsam2_atlas.base.database import writing
from medsam2_atlas.base.errors import AtlasError, InputError, MedSAM2AtlasError, NotFoundError, UnavailableError, WeightsError
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
from medsam2_atlas.storage import WorkFolder
from medsam2_atlas.studies.models import Models
from tasks.about import described
from tasks.batch_task import BatchTask, batch_state
from tasks.housekeeper import Housekeeper
from tasks.learner import Learner
from tasks.next_case import NextCase
from tasks.predictions import Predictions
from tasks.retries import Retries
from tasks.scoring_method import OrganScoring
from waiting import until


class Shelf:
    """A learner with fake studies and models, which records the measured studies."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        for name in names:
            (folder / f"{name}.nii.gz").write_bytes(name.encode())
        self.folder, self.names, self.version = folder, names, "a1"
        self.table = ScoreTable(folder / "work" / "t.sqlite")
        self.measured: list[str] = []
        self.errors: dict[str, Exception] = {"broken": InputError("broken.nii.gz", "cannot be read.")}
        self.models: Any = SimpleNamespace(atlas=lambda: SimpleNamespace(version=self.version), hu=CHECK)
        predictions: Any = SimpleNamespace(image=lambda study: folder / f"{study}.nii.gz", available=lambda role: [])
        predictions.segmenter = lambda tag: SimpleNamespace(version=lambda: "")
        store: Any = SimpleNamespace(get_unlabeled_images=lambda: self.names)
        self.learner = Learner(self.models, predictions, self.table, lambda: store, "atlas")
        self.learner._assess = self._assess  # type: ignore[method-assign]

    def _assess(self, study: str) -> Assessment:
        self.measured.append(study)
        if study in self.errors:
            raise self.errors[study]
        return Assessment({"novelty": 0.5}, {"novelty": "far"})


def test_each_study_is_measured_once_until_something_changes(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, ["a", "b"])
    while shelf.learner.measure_next():
        pass
    assert shelf.measured == ["a", "b"]
    shelf.names = ["b"]  # as if `a` had been signed off
    shelf.version = "a2"
    while shelf.learner.measure_next():
        pass
    assert shelf.measured == ["a", "b", "b"]
    assert shelf.table.rows()["b"].versions["atlas"] == "a2"
    (tmp_path / "b.nii.gz").write_bytes(b"another image")
    assert shelf.learner.measure_next()
    assert not shelf.learner.measure_next()


def test_a_study_with_implausible_values_is_measured_again_with_another_hu_rule(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, ["a"])
    shelf.errors = {"a": InputError("a.nii.gz", "its values are 1024 too high for HU.")}
    assert shelf.learner.measure_next()
    assert not shelf.learner.measure_next()
    assert "1024 too high" in shelf.table.rows()["a"].problem
    shelf.models.hu, shelf.errors = HuRule("auto"), {}
    assert shelf.learner.measure_next()
    assert shelf.table.rows()["a"].problem == ""


def test_a_study_that_cannot_be_measured_does_not_stop_the_others(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, ["broken", "c"])
    while shelf.learner.measure_next():
        pass
    assert shelf.measured == ["broken", "c"]
    assert "cannot be read" in shelf.table.rows()["broken"].problem
    assert shelf.table.rows()["broken"].unusable


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory"),
        AtlasError("atlas", "has no organ."),
        InputError("bundle.json", "has no network."),
    ],
)
def test_an_error_of_a_model_does_not_make_the_image_unusable(tmp_path: Path, error: Exception) -> None:
    shelf = Shelf(tmp_path, ["a"])
    shelf.errors = {"a": error}
    assert shelf.learner.measure_next()
    row = shelf.table.rows()["a"]
    assert (bool(row.problem), row.unusable) == (True, False)


def test_an_image_that_is_removed_after_an_error_does_not_put_off_the_others(tmp_path: Path) -> None:
    shelf, asked = Shelf(tmp_path, ["broken", "c"]), list[str]()

    def image(study: str) -> Path:
        asked.append(study)
        if asked.count("broken") > 2 and study == "broken":
            raise NotFoundError("broken", "is not a study of this folder.")
        return tmp_path / f"{study}.nii.gz"

    shelf.learner._predictions.image = image  # type: ignore[method-assign]
    while shelf.learner.measure_next():
        pass
    assert shelf.measured == ["broken", "c"]
    assert list(shelf.table.rows()) == ["c"]


def test_an_unexpected_error_of_a_study_does_not_stop_active_learning(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, ["a", "b", "c"])
    shelf.errors = {"a": ZeroDivisionError("no voxels"), "b": RuntimeError("from a library")}
    while shelf.learner.measure_next():
        pass
    assert shelf.measured == ["a", "b", "c"]  # each study once
    assert "no voxels" in shelf.table.rows()["a"].problem
    shelf.version = "a2"  # a new model may succeed
    shelf.errors = {}
    while shelf.learner.measure_next():
        pass
    assert shelf.table.rows()["a"].problem == ""


def test_a_study_with_an_unavailable_image_does_not_delay_the_others(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, ["gone", "b", "full"])
    now = [0.0]
    shelf.learner._later = Retries(lambda: now[0])
    (tmp_path / "gone.nii.gz").unlink()
    shelf.errors = {"full": OSError(28, "No space left on device")}
    while shelf.learner.measure_next():
        pass
    assert shelf.measured == ["b", "full"]
    assert "gone.nii.gz" in shelf.learner.problems()["gone"]
    assert "No space" in shelf.learner.problems()["full"]
    (tmp_path / "gone.nii.gz").write_bytes(b"back")
    shelf.errors = {}
    assert not shelf.learner.measure_next()  # the delay is not over
    now[0] = 11.0
    while shelf.learner.measure_next():
        pass
    assert sorted(shelf.measured) == ["b", "full", "full", "gone"]
    assert shelf.learner.problems() == {}


def test_delays_between_tries_increase_to_five_minutes() -> None:
    now = [0.0]
    retries = Retries(lambda: now[0])
    waits = []
    for _ in range(8):
        retries.failed("x", "away")
        began = now[0]
        while not retries.due("x"):
            now[0] += 1
        waits.append(now[0] - began)
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]
    retries.succeeded("x")
    assert retries.due("x")


def test_stopping_does_not_wait_for_a_study_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.learner._STOP_SECONDS", 0.2)
    shelf = Shelf(tmp_path, ["a"])
    begun, end = threading.Event(), threading.Event()

    def endless(study: str) -> Assessment:
        begun.set()
        end.wait(30)
        return Assessment({}, {})

    shelf.learner._assess = endless  # type: ignore[method-assign]
    shelf.learner._last_request = -100.0
    shelf.learner.start()
    assert begun.wait(10)
    began = time.monotonic()
    shelf.learner.stop()
    assert time.monotonic() - began < 5
    end.set()


def test_nothing_is_measured_while_a_request_is_served(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, ["a"])
    with shelf.learner.paused():
        shelf.learner.start()
        time.sleep(0.5)
        assert shelf.measured == []
    shelf.learner._last_request = -100.0  # as if the last request had been long ago
    shelf.learner.notify()
    deadline = time.monotonic() + 10
    while not shelf.measured and time.monotonic() < deadline:
        time.sleep(0.05)
    shelf.learner.stop()
    assert shelf.measured == ["a"]


def test_the_next_of_3000_cases_is_chosen_quickly(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    for n in range(3000):
        (studies / f"case-{n:04d}.nii.gz").touch()
    datastore = StudyDatastore(studies)
    table = ScoreTable(tmp_path / "t.sqlite")
    generator = np.random.default_rng(1)
    values = generator.permutation(3000) / 3000
    with writing(table._file) as database:
        rows = [(f"case-{n:04d}", "s", "{}", "", f'{{"novelty": {v}}}', '{"novelty": "far"}', "") for n, v in enumerate(values)]
        database.executemany("INSERT INTO measures VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    strategy = NextCase("novelty", table, dict)
    began = time.perf_counter()
    chosen = strategy({"strategy": "novelty", "client_id": "one"}, datastore)
    assert time.perf_counter() - began < 3  # it usually takes about 50 ms
    assert chosen is not None
    assert chosen["id"] == f"case-{int(np.argmax(values)):04d}"
    datastore.update_image_info(chosen["id"], {"strategy": {"novelty": {"ts": int(time.time()), "client_id": "one"}}})
    again = strategy({"client_id": "one"}, datastore)
    other = strategy({"client_id": "two"}, datastore)
    assert again is not None
    assert other is not None
    assert again["id"] == chosen["id"]
    assert other["id"] == f"case-{int(np.argsort(values)[-2]):04d}"


def test_predictions_use_the_store_of_the_studies(tmp_path: Path) -> None:
    datastore = StudyDatastore(tmp_path)
    models: Any = SimpleNamespace(work=WorkFolder.of(tmp_path))
    assert Predictions(models, lambda: datastore).store()._studies is datastore.store


def write(folder: Path, name: str, array: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 2.0, 2.0))
    sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))


def test_any_two_tags_are_scored_for_each_organ(tmp_path: Path) -> None:
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[2:8, 2:8, 2:8], truth[9:11, 9:11, 9:11] = 6, 11
    found = np.roll(truth, 1, axis=2)
    found[0, 0, 0] = 8  # an organ that is not annotated must not lower the score
    for name in ("a", "b", "c"):
        write(tmp_path, name, np.zeros((12, 12, 12), np.int16))
    write(tmp_path / "labels" / "final", "a", truth)
    write(tmp_path / "labels" / "final", "b", truth)
    write(tmp_path / "labels" / "second_reader", "a", found)
    write(tmp_path / "labels" / "second_reader", "b", np.zeros((3, 3, 3), np.uint8))
    datastore = StudyDatastore(tmp_path)
    scoring = OrganScoring(WorkFolder.of(tmp_path))
    result = scoring({"y_pred": "second_reader"}, datastore)
    assert set(result["studies"]) == {"a", "b"}
    assert result["studies"]["a"]["liver"]["dice"] == pytest.approx(5 / 6, abs=1e-4)
    assert result["studies"]["a"]["liver"]["hd95_mm"] == 2.0
    assert result["studies"]["a"]["right_adrenal_gland"]["dice"] == pytest.approx(0.5)
    assert "aorta" not in result["studies"]["a"]
    assert "a different grid" in result["studies"]["b"]["problem"]
    assert result["mean"]["dice"] == pytest.approx((5 / 6 + 0.5) / 2, abs=1e-4)
    assert scoring.info()["results"]["second_reader-against-final"]["studies"] == 1
    assert scoring({"y": "final", "y_pred": "none"}, datastore)["mean"] == {"studies": 0, "organs": {}}
    with pytest.raises(InputError, match="label tag"):
        scoring({"y": "../../etc"}, datastore)


def test_stored_files_are_checked_only_while_the_server_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.housekeeper._FIRST_SECONDS", 0.01)
    monkeypatch.setattr("tasks.housekeeper._LOOK_SECONDS", 0.01)
    monkeypatch.setattr("tasks.housekeeper._EVERY_SECONDS", 0.01)
    audits: list[threading.Event] = []
    idle = threading.Event()

    class Store:
        def audit(self, stop: threading.Event) -> int:
            audits.append(stop)
            if len(audits) == 1:
                raise OSError("the disk is unavailable")
            return 0

    studies: Any = SimpleNamespace(store=Store(), figures=None, signed_off=threading.Event())
    monkeypatch.setattr("tasks.housekeeper.measure_next", lambda *_: False)
    housekeeper = Housekeeper(lambda: studies, idle.is_set)
    housekeeper.start()
    time.sleep(0.2)
    assert audits == []
    idle.set()
    until(lambda: len(audits) > 1, 10)
    housekeeper.stop()
    assert audits[0].is_set()


def test_figures_are_computed_after_a_sign_off_until_none_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.housekeeper._LOOK_SECONDS", 0.01)
    left, asked = [True, True, False], list[bool]()

    def measure(*_: object) -> bool:
        asked.append(True)
        if len(asked) == 5:
            raise OSError("the disk is unavailable")
        return left.pop(0) if left else False

    monkeypatch.setattr("tasks.housekeeper.measure_next", measure)
    studies: Any = SimpleNamespace(store=None, figures=None, signed_off=threading.Event())
    housekeeper = Housekeeper(lambda: studies, lambda: True)
    housekeeper.start()
    time.sleep(0.1)
    assert asked == []
    for count in (3, 4, 5, 6):  # the fifth fails, which does not end the thread
        studies.signed_off.set()
        until(lambda count=count: len(asked) >= count, 10)  # type: ignore[misc]
    housekeeper.stop()
    assert len(asked) == 6


def test_a_failing_task_is_reported_and_the_others_are_described() -> None:
    def describe(task: Any) -> Any:
        return {"value": 1 / task}

    missing = {"c": "not trained"}
    assert described({"a": 1, "b": 0, "c": 2}, describe, missing) == {"a": {"value": 1.0}}
    assert missing == {"c": "not trained", "b": "ZeroDivisionError: division by zero"}
    described({"b": 0}, describe, missing, "training")
    assert "training b" in missing


def test_a_study_that_fails_does_not_end_a_batch() -> None:
    def infer(request: dict[str, Any], _: Any) -> dict[str, Any]:
        if request["image"] == "b":
            raise RuntimeError("from a library")
        return {"label": request["image"]}

    store: Any = SimpleNamespace(list_images=lambda: ["a", "b", "c"])
    for workers in (1, 2):
        result = BatchTask()({"device": "cpu", "multi_gpu": False, "max_workers": workers}, store, infer)
        assert result == {"a": {"label": "a"}, "b": {"problem": "RuntimeError: from a library"}, "c": {"label": "c"}}


def test_a_batch_tries_what_may_pass_again_and_tells_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, attempts = BatchConfig(first_pause=0.01), list[str]()
    monkeypatch.setattr("tasks.batch_task.batch_config", lambda: config)

    def infer(request: dict[str, Any], _: Any) -> dict[str, Any]:
        attempts.append(request["image"])
        if attempts == ["a"]:
            raise UnavailableError("PACS", "does not answer.", "Wait.")
        if request["image"] == "b":
            raise InputError("b", "is empty.", "Remove it.")
        return {"label": request["image"]} | ({"params": {"report": {"from_cache": True}}} if request["image"] == "c" else {})

    work = WorkFolder.of(tmp_path)
    work.folder("")
    assert batch_state(work) is None
    store: Any = SimpleNamespace(list_images=lambda: ["a", "b", "c"])
    result = BatchTask(work)({"model": "atlas", "device": "cpu"}, store, infer)
    assert {**result, "c": None} == {"a": {"label": "a"}, "b": {"problem": "b: is empty. Remove it."}, "c": None}
    assert sorted(attempts) == ["a", "a", "b", "c"]
    state = batch_state(work)
    assert state is not None
    assert (state["model"], state["ended"], state["total"], state["done"], state["failed"]) == ("atlas", True, 3, 1, 1)
    assert state["kept"] == 1  # its prediction was up to date
    assert "is empty" not in str(state)  # no names or reasons, which may contain names


def test_any_failure_to_load_weights_is_a_weights_error(tmp_path: Path) -> None:
    models = Models({"unet_3d": str(tmp_path / "w.pt"), "device": "cpu"}, WorkFolder.of(tmp_path))
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(MedSAM2AtlasError, match=r"w\.pt"):
        models.unet("unet_3d")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        models.loaded("x", [tmp_path / "w.pt"], lambda: 1 / 0)


def test_a_case_with_any_client_info_can_be_chosen(tmp_path: Path) -> None:
    for name in ("a", "b"):
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4), np.int16)), str(tmp_path / f"{name}.nii.gz"))
    datastore, table = StudyDatastore(tmp_path), ScoreTable(tmp_path / "t.sqlite")
    invalid: list[Any] = ["x", {"first": 1}, {"first": {"ts": "soon"}}, [1]]
    for value in invalid:
        datastore.update_image_info("a", {"strategy": value})
        assert datastore.get_image_info("a")["strategy"] == {}
        chosen = NextCase("first", table, dict)({}, datastore)
        assert chosen is not None
        assert chosen["id"] == "a"
