"""Batches on one machine: resumed, failures recorded, nothing half-written, nothing done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from app.fake_pacs import fake_pacs
from batch_cases import entries, environment, outputs, run_stand_in, stand_in_job, write_cts
from medsam2_atlas.base.errors import ConflictError, StorageError, UnavailableError
from medsam2_atlas.batch import work
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.place import Place
from medsam2_atlas.batch.tally import Tally
from medsam2_atlas.segmenters.base import Options
from series_files import upright, write_series


@pytest.fixture(autouse=True)
def quick_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    config = BatchConfig(attempts=3, first_pause=0.01)
    monkeypatch.setattr("medsam2_atlas.batch.run.batch_config", lambda: config)


def test_a_pipelined_batch_gives_what_a_serial_one_gives(tmp_path: Path) -> None:
    cts = write_cts(tmp_path / "cts", 12)
    ended = run_stand_in(cts, tmp_path / "piped")
    run_stand_in(cts, tmp_path / "serial", serial=True)
    assert (ended.tally.done, ended.tally.failed) == (12, {})
    assert outputs(tmp_path / "piped") == outputs(tmp_path / "serial")
    assert {*Counter(entry["case"] for entry in entries(tmp_path / "piped")).values()} == {1}
    report = json.loads((tmp_path / "piped" / "reports" / "case-00000.json").read_text())
    assert report["segmenter"] == "atlas"


def test_only_what_changed_is_done_again(tmp_path: Path) -> None:
    cts, out = write_cts(tmp_path / "cts", 5), tmp_path / "out"
    run_stand_in(cts, out)
    assert run_stand_in(cts, out).tally.kept == 5
    (out / "labels" / "case-00001.nii.gz").unlink()  # a result was removed
    (out / "labels" / "case-00002.nii.gz").write_bytes(b"x")  # a result was damaged
    (cts / "case-00003.nii.gz").write_bytes((cts / "case-00000.nii.gz").read_bytes())  # a CT was replaced
    os.utime(out / "labels" / "case-00004.nii.gz")  # only touched
    tally = run_stand_in(cts, out).tally
    assert (tally.done, tally.kept) == (3, 2)
    assert outputs(out)["case-00003.nii.gz"] == outputs(out)["case-00000.nii.gz"]
    assert len(entries(out)) == 5
    assert run_stand_in(cts, out, job=stand_in_job(options=Options(organs=(6,)))).tally.done == 5  # other results are asked for
    assert len(entries(out)) == 5


def test_a_bad_case_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    cts, out = write_cts(tmp_path / "cts", 3), tmp_path / "out"
    (cts / "bad.nii.gz").write_bytes(b"no image")
    tally = run_stand_in(cts, out).tally
    assert (tally.done, [*tally.failed]) == (3, ["bad"])
    (bad,) = (entry for entry in entries(out) if entry["status"] == "failed")
    assert bad["attempts"] == 1 and bad["reason"] == tally.failed["bad"]
    again = run_stand_in(cts, out)  # nothing has changed, so the attempt would fail again
    assert (again.tally.done, again.tally.kept, len(again.tally.failed)) == (0, 3, 1)
    assert len(entries(out)) == 4
    (cts / "bad.nii.gz").write_bytes((cts / "case-00000.nii.gz").read_bytes())
    assert run_stand_in(cts, out).tally.done == 1


def test_a_problem_that_may_pass_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cts, out, seen = write_cts(tmp_path / "cts", 3), tmp_path / "out", Counter[str]()

    def flaky(path: Path) -> str:
        seen[path.name] += 1
        if path.name == "case-00001.nii.gz" and seen[path.name] <= 2:
            raise UnavailableError("PACS", "does not answer.", "Wait.")
        if path.name == "case-00002.nii.gz":
            raise MemoryError
        return "0" * 64

    monkeypatch.setattr(work, "content_sha256", flaky)
    tally = run_stand_in(cts, out).tally
    assert (tally.done, [*tally.failed], tally.repeated) == (2, ["case-00002"], 4)
    assert {entry["case"]: entry["attempts"] for entry in entries(out)} == {
        "case-00000": 1,
        "case-00001": 3,
        "case-00002": 3,
    }
    monkeypatch.undo()
    assert run_stand_in(cts, out).tally.done == 1  # what may pass is tried again by the next run


def test_a_drive_that_vanishes_fails_cases_that_the_next_run_tries_again(tmp_path: Path) -> None:
    cts, out = write_cts(tmp_path / "cts", 3), tmp_path / "out"

    def unmounted(tally: Tally) -> None:
        if cts.exists():
            cts.rename(tmp_path / "elsewhere")

    assert len(run_stand_in(cts, out, unmounted, serial=True).tally.failed) == 3
    (tmp_path / "elsewhere").rename(cts)
    assert run_stand_in(cts, out).tally.done == 3


def test_new_cases_wait_only_for_a_problem_that_they_would_meet_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cts = write_cts(tmp_path / "cts", 2)
    monkeypatch.setattr("medsam2_atlas.batch.run.batch_config", lambda: BatchConfig(attempts=2, first_pause=1.0))
    for problem, waits in ((MemoryError(), False), (UnavailableError("PACS", "does not answer."), True)):
        began: list[str] = []

        def too_large(path: Path, problem: Exception = problem, began: list[str] = began) -> str:
            began.append(path.name)
            if path.name == "case-00000.nii.gz":
                raise problem
            return "0" * 64

        monkeypatch.setattr(work, "content_sha256", too_large)
        run_stand_in(cts, tmp_path / f"out-{waits}", serial=True)
        assert began[1] == ("case-00000.nii.gz" if waits else "case-00001.nii.gz")


def test_a_full_disk_stops_a_batch_into_a_studies_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cts, studies = write_cts(tmp_path / "cts", 2), tmp_path / "studies"
    studies.mkdir()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medsam2_atlas.studies.predictions.write_json", full)
    with pytest.raises(StorageError, match="Free some space"):
        run_stand_in(cts, studies, job=stand_in_job(results="studies"))
    monkeypatch.undo()
    assert run_stand_in(cts, studies, job=stand_in_job(results="studies")).tally.done == 2


def test_a_persons_label_map_is_kept_and_the_reason_says_so(tmp_path: Path) -> None:
    from medsam2_atlas.storage import StudyFolder

    cts, studies = write_cts(tmp_path / "cts", 1), tmp_path / "studies"
    studies.mkdir()
    job = stand_in_job(results="studies")
    run_stand_in(cts, studies, job=job)
    store = StudyFolder(studies).store
    drawn = sitk.ReadImage(str(store.label("case-00000", "atlas").file))
    drawn[0, 0, 0] = 6
    sitk.WriteImage(drawn, str(tmp_path / "drawn.nii.gz"))
    store.save_label("case-00000", "atlas", tmp_path / "drawn.nii.gz", author="Ann")
    (reason,) = run_stand_in(cts, studies, job=job).tally.failed.values()
    assert "Ann" in reason or "person" in reason
    assert store.label("case-00000", "atlas").version.author == "Ann"


def test_a_full_disk_stops_the_batch_and_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cts, out = write_cts(tmp_path / "cts", 4), tmp_path / "out"
    replace = os.replace

    def full(source: str, target: Path) -> None:
        if str(target).endswith("case-00002.nii.gz") and "labels" in str(target):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="Free some space"):
        run_stand_in(cts, out)
    monkeypatch.undo()
    before = len(entries(out))
    assert before < 4
    assert run_stand_in(cts, out).tally.done == 4 - before


def test_two_batches_cannot_write_to_one_folder(tmp_path: Path) -> None:
    cts = write_cts(tmp_path / "cts", 1)
    with Place(tmp_path / "out").held(), pytest.raises(ConflictError, match="another batch"):
        run_stand_in(cts, tmp_path / "out")


@pytest.mark.parametrize("name", ["labels", "reports", "manifest.jsonl", ".batch/parts"])
def test_a_link_in_the_output_folder_cannot_lead_outputs_elsewhere(tmp_path: Path, name: str) -> None:
    cts, out = write_cts(tmp_path / "cts", 1), tmp_path / "out"
    (tmp_path / "victim").mkdir()
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(tmp_path / "victim")
    with pytest.raises(StorageError, match="link"):
        run_stand_in(cts, out)
    assert not [*(tmp_path / "victim").iterdir()]


def test_a_name_in_a_manifest_from_elsewhere_cannot_lead_outputs_out_of_the_folder(tmp_path: Path) -> None:
    cts, out = write_cts(tmp_path / "cts", 2), tmp_path / "a" / "out"
    out.mkdir(parents=True)
    ids = ("case-00000.nii.gz", "case-00001.nii.gz")
    lines = [{"case": "../../../evil", "id": one, "status": "done", "made_by": "x"} for one in ids]
    (out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run_stand_in(cts, out).tally.done == 2
    assert sorted(outputs(out)) == [*ids]
    assert not [*tmp_path.rglob("evil*")]


def test_inputs_of_the_same_name_do_not_replace_each_other(tmp_path: Path) -> None:
    write_cts(tmp_path / "cts" / "a", 1)
    write_cts(tmp_path / "cts" / "A", 2, size=18)
    table = tmp_path / "t.csv"
    table.write_text("image,name\n" + "".join(f"cts/{p},../same\n" for p in ("a/case-00000.nii.gz", "A/case-00000.nii.gz")))
    run_stand_in(table, tmp_path / "out")
    assert len({*outputs(tmp_path / "out").values()}) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cts", "out", "t.csv"]


_PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from batch_cases import run_stand_in
print("began", flush=True)
run_stand_in(Path(sys.argv[1]), Path(sys.argv[2]), lambda tally: print(tally.done, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_batch_resumes_with_nothing_half_written(tmp_path: Path, number: signal.Signals) -> None:
    cts, out = write_cts(tmp_path / "cts", 30), tmp_path / "out"
    run_stand_in(cts, tmp_path / "whole", serial=True)
    command = [sys.executable, "-c", _PROGRAM, str(cts), str(out), str(Path(__file__).parents[1])]
    with subprocess.Popen(command, env=environment(0.05), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as ran:
        assert ran.stdout is not None
        for line in ran.stdout:
            if line.strip().isdigit() and int(line) >= 5:
                break
        ran.send_signal(number)
        began = time.monotonic()
        ran.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert ran.returncode != 0
    assert 5 <= len(entries(out)) < 30
    for name, content in outputs(out).items():
        assert content == outputs(tmp_path / "whole")[name]
    counts: list[Tally] = []
    tally = run_stand_in(cts, out, counts.append).tally
    assert tally.kept >= 5 and tally.done + tally.kept == 30
    assert outputs(out) == outputs(tmp_path / "whole")
    assert {*Counter(entry["case"] for entry in entries(out)).values()} == {1}
    assert not (out / ".batch" / "parts").exists()


def test_a_second_interrupt_ends_a_batch_at_once(tmp_path: Path) -> None:
    cts, out = write_cts(tmp_path / "cts", 4), tmp_path / "out"
    command = [sys.executable, "-c", _PROGRAM, str(cts), str(out), str(Path(__file__).parents[1])]
    with subprocess.Popen(command, env=environment(40), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as ran:
        assert ran.stdout is not None
        assert any(line.strip() == "0" for line in ran.stdout)  # the first case has begun
        began = time.monotonic()
        for _ in range(2):
            time.sleep(0.3)
            ran.send_signal(signal.SIGINT)
        ran.communicate(timeout=60)
    assert ran.returncode != 0 and time.monotonic() - began < 30
    assert run_stand_in(cts, out).tally.done == 4


def test_series_of_a_pacs_are_segmented_and_sent_back(tmp_path: Path) -> None:
    array = np.full((6, 16, 16), -1000, np.int16)
    array[1:4, 4:9, 4:9] = 60
    with fake_pacs() as pacs:
        series = pacs.add(write_series(tmp_path / "series", upright(array)))
        tally = run_stand_in(f"{pacs.url}?PatientID=1", tmp_path / "out", job=stand_in_job(results="pacs")).tally
        assert (tally.done, tally.failed) == (1, {})
        assert len(pacs.stored) == 1
        again = run_stand_in(f"{pacs.url}?PatientID=1", tmp_path / "out", job=stand_in_job(results="pacs")).tally
        assert (again.kept, len(pacs.stored)) == (1, 1)
    seg = pydicom.dcmread(next((tmp_path / "out" / "segmentations").iterdir()))
    assert seg.Modality == "SEG" and seg.ReferencedSeriesSequence[0].SeriesInstanceUID == series


def test_a_pacs_that_is_away_fails_cases_that_the_next_run_tries_again(tmp_path: Path) -> None:
    array = np.full((6, 16, 16), -1000, np.int16)
    array[1:4, 4:9, 4:9] = 60
    with fake_pacs() as pacs:
        series = pacs.add(write_series(tmp_path / "series", upright(array)))
        kept = pacs.objects.pop(series)
        first = run_stand_in(pacs.url, tmp_path / "out").tally  # 404: does not pass
        assert next(iter(first.failed.values())).startswith("PACS: answers 404")
        assert first.repeated == 0
        pacs.objects[series] = kept
        assert run_stand_in(pacs.url, tmp_path / "out", retry_failed=True).tally.done == 1


def test_results_become_the_models_label_of_a_studies_folder(tmp_path: Path) -> None:
    from medsam2_atlas.storage import StudyFolder

    cts, studies = write_cts(tmp_path / "cts", 2), tmp_path / "studies"
    studies.mkdir()
    job = stand_in_job(results="studies")
    assert run_stand_in(cts, studies, job=job).tally.done == 2
    labels = StudyFolder(studies).store.labels()
    assert {study: [*tags] for study, tags in labels.items()} == {"case-00000": ["atlas"], "case-00001": ["atlas"]}
    assert run_stand_in(cts, studies, job=job).tally.kept == 2
    assert run_stand_in(studies, studies, job=job).tally.failed == {}  # a studies folder is a source, too
    assert len(StudyFolder(studies).store.versions("case-00000", "atlas")) == 1  # equal label maps are no new version
