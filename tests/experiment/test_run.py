"""Runs of an experiment keep finished records, and repeat those whose inputs have changed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from blocks import PATIENT, labelled
from fake_session import FakeSession
from medsam2_atlas.base.choices import ThresholdRule
from medsam2_atlas.base.errors import InputError, StorageError
from medsam2_atlas.base.mapping import KilledError
from medsam2_atlas.base.overlay import begin_settings, overlaid_settings
from medsam2_atlas.experiment import Record, Variant, workers
from medsam2_atlas.experiment import run as run_module
from medsam2_atlas.experiment.cases import EvaluationCase, find_cases
from medsam2_atlas.experiment.measure import keys
from medsam2_atlas.experiment.run import Session, Task, open_tasks, run_tasks
from medsam2_atlas.experiment.setting import Setting, locked
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.studies.models import Models

UNET = Variant(segmenter="unet_3d")


@pytest.fixture
def cases(tmp_path: Path) -> list[EvaluationCase]:
    labelled(tmp_path / "data", "a", PATIENT)
    labelled(tmp_path / "data", "b", PATIENT, z_from=2)
    return find_cases(tmp_path / "data" / "images", tmp_path / "data" / "labels")


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path / "out", (UNET,), tuple(organ_table().indices), energy=False)


def test_finished_records_are_kept(cases: list[EvaluationCase], setting: Setting) -> None:
    session = FakeSession(setting)
    outcome = run_tasks(open_tasks(cases, session, {}), session)
    assert (outcome.done, outcome.problems) == (2, {})
    assert session.ran == ["a.nii.gz", "b.nii.gz"]
    assert open_tasks(cases, FakeSession(setting), {}) == []


def test_a_record_contains_raw_scores_of_the_organs_that_the_segmenter_has(
    cases: list[EvaluationCase], setting: Setting
) -> None:
    session = FakeSession(setting)
    run_tasks(open_tasks(cases, session, {}), session)
    record = Record.read(setting.record_file("a", UNET))
    assert record.counted == (6, 14)
    liver, bladder = record.organ(6), record.organ(14)
    assert liver is not None
    assert bladder is not None
    one_block, all_blocks = 8 * 8 * 8, 8 * 8 * 8 + 2 * 6 * 5 * 5 + 5 * 6 * 7
    assert liver.dice == pytest.approx(2 * one_block / (one_block + all_blocks))
    assert liver.truth_ml == pytest.approx(one_block * 0.216)
    assert (bladder.dice, bladder.nsd, bladder.hd95_mm, bladder.predicted_ml) == (0, 0, None, 0)
    assert record.organ(2) is None, "the segmenter has no kidneys"
    assert record.diagonal_mm == pytest.approx(6 * np.sqrt(30**2 + 30**2 + 40**2))
    # Kidneys are no organs of this segmenter, so they count as background.
    assert record.confusion == ((0, 6, 300), (6, 6, 512), (14, 6, 210))
    assert record.total.seconds is not None
    assert "side by side" in record.energy_how
    assert not record.prompted


@pytest.mark.parametrize("what", ["weights", "label", "image", "organs", "record", "label map", "damage"])
def test_a_record_is_made_again_if_something_that_it_depends_on_has_changed(
    cases: list[EvaluationCase], setting: Setting, what: str
) -> None:
    session = FakeSession(setting)
    run_tasks(open_tasks(cases, session, {}), session)
    again = FakeSession(setting, "b" if what == "weights" else "a")
    if what in ("label", "image"):
        cases = [replace(cases[0], **{f"{what}_sha256": "0"}), cases[1]]
    elif what == "organs":
        again = FakeSession(replace(setting, organs=(6,)))
    elif what == "record":
        setting.record_file("a", UNET).unlink()
    elif what == "label map":
        setting.label_file("a", UNET).unlink()
    elif what == "damage":
        setting.record_file("a", UNET).write_text('{"case": "a"', encoding="utf-8")
    names = [task.case.name for task in open_tasks(cases, again, {})]
    assert names == (["a", "b"] if what in ("weights", "organs") else ["a"])


def test_a_case_that_fails_is_listed_and_the_others_are_run(cases: list[EvaluationCase], setting: Setting) -> None:
    session = FakeSession(setting)
    cases[0].label.write_bytes(b"no label map")
    outcome = run_tasks(open_tasks(cases, session, {}), session)
    assert outcome.done == 1
    assert list(outcome.problems) == ["a, unet_3d"]
    assert "a.nii.gz" in outcome.problems["a, unet_3d"]
    with pytest.raises(InputError):
        run_tasks(open_tasks(cases, session, {}), session, strict=True)


def test_files_that_change_while_a_case_runs_give_no_record(cases: list[EvaluationCase], setting: Setting) -> None:
    session = FakeSession(setting)
    session.after = lambda: cases[0].image.write_bytes(b"another file")
    outcome = run_tasks([Task(cases[0], (UNET,))], session)
    assert "changed while the evaluation ran" in outcome.problems["a, unet_3d"]
    assert not setting.record_file("a", UNET).exists()


def test_a_segmenter_that_cannot_run_is_a_problem_of_its_own(cases: list[EvaluationCase], setting: Setting) -> None:
    session = FakeSession(setting)
    session.segmenter.check = _missing  # type: ignore[method-assign]
    problems: dict[str, str] = {}
    assert open_tasks(cases, session, problems) == []
    assert problems == {"unet_3d (all cases)": "unet_3d: has no weights. Train it."}
    with pytest.raises(InputError, match="has no weights"):
        open_tasks(cases, session, None)


def test_a_record_of_another_variant_or_case_is_not_used(cases: list[EvaluationCase], setting: Setting) -> None:
    session = FakeSession(setting)
    run_tasks(open_tasks(cases, session, {}), session)
    file = setting.record_file("a", UNET)
    Record.read(file).model_copy(update={"variant": Variant(segmenter="unet_2d")}).write(file)
    assert session.valid_record(cases[0], UNET) is None
    setting.record_file("b", UNET).rename(file)
    assert session.valid_record(cases[0], UNET) is None


def test_weights_that_change_while_a_case_runs_give_no_record(cases: list[EvaluationCase], setting: Setting) -> None:
    session = FakeSession(setting)
    session.after = lambda: session.segmenter._made_of.update(weights="b")
    outcome = run_tasks([Task(cases[0], (UNET,))], session)
    assert "unet_3d: changed while the experiment ran" in outcome.problems["a, unet_3d"]
    assert not setting.record_file("a", UNET).exists()


def test_a_record_of_the_processor_is_valid_on_a_gpu_only_if_its_memory_was_too_small(
    cases: list[EvaluationCase], setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = FakeSession(setting)
    run_tasks(open_tasks(cases, session, {}), session)
    file = setting.record_file("a", UNET)
    monkeypatch.setattr(session.segmenter, "uses_network", True)
    monkeypatch.setattr(session.segmenter, "provenance", lambda options: {"device": options.memory})
    monkeypatch.setattr(Models, "device", torch.device("cuda"))
    record = Record.read(file)
    record = record.model_copy(update={"key": record.key | {"segmenter": {"device": "cpu"}}})
    record.write(file)
    assert session.valid_record(cases[0], UNET) is None
    record.model_copy(update={"report": record.report | {"memory": "out of GPU memory; done on the processor"}}).write(file)
    assert session.valid_record(cases[0], UNET) is not None


def test_the_thresholds_are_in_the_key_of_the_atlas_because_its_prompts_are_scored(
    cases: list[EvaluationCase], setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models({"device": "cpu"})
    models._segmenters["atlas"] = FakeSession(setting).segmenter
    variant = Variant(segmenter="atlas")
    found = [next(keys(cases[0], variant, replace(setting, thresholds=rule), models)) for rule in get_args(ThresholdRule)]
    assert all(one != other for number, one in enumerate(found) for other in found[:number])


def test_progress_begins_with_the_first_task(cases: list[EvaluationCase], setting: Setting) -> None:
    session, shares = FakeSession(setting), list[float]()
    run_tasks(open_tasks(cases, session, {}), session, progress=lambda _, share, __=None: shares.append(share))
    assert shares == [0, 0.5, 1]
    run_tasks([], session, progress=lambda _, share, __=None: shares.append(share))
    assert len(shares) == 3, "nothing is shown if nothing is left to run"


def _missing() -> None:
    raise InputError("unet_3d", "has no weights.", "Train it.")


def test_one_command_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "out"), pytest.raises(StorageError, match="in use by another"), locked(tmp_path / "out"):
        pass
    with locked(tmp_path / "out"):
        pass


class _Dying(Session):
    """A session of a worker process: it is killed by case `a`, and finishes case `b`."""

    def _run_one(self, case: EvaluationCase, variant: Variant) -> None:
        if case.name == "a":
            os.kill(os.getpid(), signal.SIGKILL)


def _start_dying_worker(setting: Setting) -> None:
    run_module._session = _Dying(setting)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_task_that_kills_its_process_is_listed_and_the_others_are_run(
    cases: list[EvaluationCase], setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_start_worker", _start_dying_worker)
    monkeypatch.setattr(workers, "get_context", lambda _: get_context("fork"))  # starts at once; spawn takes seconds
    session = FakeSession(setting)
    outcome = run_tasks([Task(case, (UNET,)) for case in cases], session, jobs=2)
    assert outcome.done == 1
    assert list(outcome.problems) == ["a, unet_3d"]
    assert "too little memory" in outcome.problems["a, unet_3d"]


def test_on_a_cluster_a_task_that_kills_its_workers_is_listed_and_the_others_are_run(
    cases: list[EvaluationCase], setting: Setting
) -> None:
    def mapped(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        yield 1, run_module.Outcome(done=1)
        yield 0, KilledError("worker", "was killed.")

    session, tasks = FakeSession(setting), [Task(case, (UNET,)) for case in cases]
    outcome = run_tasks(tasks, session, mapped=mapped)
    assert (outcome.done, list(outcome.problems)) == (1, ["a, unet_3d"])
    with pytest.raises(InputError, match="too little memory"):
        run_tasks(tasks, session, strict=True, mapped=mapped)


def test_tasks_on_a_worker_use_the_settings_of_their_own_experiment(
    cases: list[EvaluationCase], setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "Session", FakeSession)
    monkeypatch.setattr(run_module, "_session", None)
    other = replace(setting, hu="as-is", out=setting.out.with_name("other"))
    for one in (setting, other, setting):
        run_module.run_on_worker(one, Task(cases[0], (UNET,)), True)
        assert run_module._session is not None and run_module._session.setting == one


def test_an_experiment_has_its_own_settings_again_after_a_batch_used_its_worker(
    cases: list[EvaluationCase], setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "Session", FakeSession)
    monkeypatch.setattr(run_module, "_session", None)
    one = replace(setting, registration="dense")
    for _ in range(2):
        run_module.run_on_worker(one, Task(cases[0], (UNET,)), True)
        assert overlaid_settings("registration.yaml") == {"method": "dense"}
        begin_settings("a batch")
        assert not overlaid_settings("registration.yaml")
