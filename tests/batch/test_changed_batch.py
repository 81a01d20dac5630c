"""Batches whose inputs, outputs or manifest have changed since the last run."""

from __future__ import annotations

import errno
import itertools
import json
from pathlib import Path

import pytest

from batch_cases import entries, outputs, run_stand_in, stand_in_job, write_cts
from medsam2_atlas.base.errors import AtlasError, ConflictError, InputError, ResultsError, WeightsError
from medsam2_atlas.batch import work
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.place import Place
from medsam2_atlas.batch.stand_in import StandIn
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Segmentation


@pytest.fixture(autouse=True)
def quick_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medsam2_atlas.batch.run.batch_config", lambda: BatchConfig(attempts=3, first_pause=0.01))


def test_a_result_of_a_ct_that_was_replaced_does_not_stay_when_the_new_one_fails(tmp_path: Path) -> None:
    cts, out = write_cts(tmp_path / "cts", 2), tmp_path / "out"
    run_stand_in(cts, out)
    (cts / "case-00000.nii.gz").write_bytes(b"no image")
    assert [*run_stand_in(cts, out).tally.failed] == ["case-00000"]
    assert [*outputs(out)] == ["case-00001.nii.gz"]
    assert [file.name for file in (out / "reports").iterdir()] == ["case-00001.json"]


def test_a_result_stays_when_another_attempt_at_the_same_ct_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cts, out = write_cts(tmp_path / "cts", 1), tmp_path / "out"
    run_stand_in(cts, out)

    def short(path: Path) -> str:
        raise MemoryError

    monkeypatch.setattr(work, "content_sha256", short)
    assert len(run_stand_in(cts, out, job=stand_in_job(options=Options(organs=(6,)))).tally.failed) == 1
    assert [*outputs(out)] == ["case-00000.nii.gz"]


def test_other_cts_of_the_same_names_are_refused_and_moved_ones_are_not(tmp_path: Path) -> None:
    first, second, out = write_cts(tmp_path / "first", 1), write_cts(tmp_path / "second", 1), tmp_path / "out"
    run_stand_in(first, out)
    with pytest.raises(InputError, match="another CT"):
        run_stand_in(second, out)
    (tmp_path / "link").symlink_to(first)
    assert run_stand_in(tmp_path / "link", out).tally.kept == 1
    first.rename(tmp_path / "moved")
    assert run_stand_in(tmp_path / "moved", out).tally.kept == 1


def test_inputs_that_cannot_be_used_are_in_the_manifest(tmp_path: Path) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "out"
    write_cts(tmp_path / "cts", 1)
    table.write_text("image\ncts/case-00000.nii.gz\ngone.nii.gz\n")
    for _ in range(2):
        assert [*run_stand_in(table, out).tally.failed] == ["gone"]
        (gone,) = (entry for entry in entries(out) if entry["status"] == "failed")
        assert (gone["case"], gone["id"]) == ("gone", "gone.nii.gz") and "line 3" in gone["reason"]
    write_cts(tmp_path / "cts", 1)
    (tmp_path / "cts" / "case-00000.nii.gz").rename(tmp_path / "gone.nii.gz")
    table.write_text("image\ngone.nii.gz\n")
    assert run_stand_in(table, out).tally.done == 1


def test_a_result_stays_in_the_manifest_when_its_ct_cannot_be_found_once(tmp_path: Path) -> None:
    cts, table, out = write_cts(tmp_path / "cts", 2), tmp_path / "t.csv", tmp_path / "out"
    table.write_text("image\ncts/case-00000.nii.gz\ncts/case-00001.nii.gz\n")
    run_stand_in(table, out)
    before = entries(out)
    cts.rename(tmp_path / "not-mounted")
    assert len(run_stand_in(table, out).tally.failed) == 2
    assert entries(out) == before
    (tmp_path / "not-mounted").rename(cts)
    assert run_stand_in(table, out).tally.kept == 2


def test_a_report_that_was_removed_is_made_again(tmp_path: Path) -> None:
    cts, out = write_cts(tmp_path / "cts", 1), tmp_path / "out"
    run_stand_in(cts, out)
    (out / "reports" / "case-00000.json").unlink()
    assert run_stand_in(cts, out).tally.done == 1


def test_two_batches_cannot_write_to_one_folder_on_a_disk_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("medsam2_atlas.batch.place.fcntl.flock", unsupported)
    cts, place = write_cts(tmp_path / "cts", 1), Place(tmp_path / "out")
    with place.held(), pytest.raises(ConflictError, match="another batch"):
        (place.parts / "part").write_text("")
        try:
            run_stand_in(cts, tmp_path / "out")
        finally:
            assert (place.parts / "part").exists()
    assert run_stand_in(cts, tmp_path / "out").tally.done == 1


@pytest.mark.parametrize("options", [{"serial": True}, {}])
def test_models_that_change_while_a_batch_runs_stop_it_before_a_result_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, bool]
) -> None:
    cts, out = write_cts(tmp_path / "cts", 3), tmp_path / "out"
    segment, before = StandIn.segment, StandIn.provenance

    def replaced(self: StandIn, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        monkeypatch.setattr(StandIn, "provenance", lambda *given: before(*given) | {"atlas": "new"})
        return segment(self, volume, options)

    monkeypatch.setattr(StandIn, "segment", replaced)
    with pytest.raises(InputError, match="changed while the batch ran"):
        run_stand_in(cts, out, **options)
    assert entries(out) == []
    assert run_stand_in(cts, out).tally.done == 3


@pytest.mark.parametrize("options", [{"serial": True}, {}])
@pytest.mark.parametrize("error", [AtlasError("atlas", "is missing."), WeightsError("x.pt", "is not a file.")])
def test_models_that_are_lost_while_a_batch_runs_stop_it_and_earlier_results_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, options: dict[str, bool]
) -> None:
    cts, out = write_cts(tmp_path / "cts", 3), tmp_path / "out"
    run_stand_in(cts, out)
    before = entries(out)

    def lost(self: StandIn, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        raise error

    monkeypatch.setattr(StandIn, "segment", lost)
    with pytest.raises(InputError, match=str(error)[:10]):
        run_stand_in(cts, out, job=stand_in_job(options=Options(organs=(6,))), **options)
    assert entries(out) == before and len(outputs(out)) == 3


def test_a_network_that_fails_on_one_ct_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cts, out = write_cts(tmp_path / "cts", 3), tmp_path / "out"
    segment, calls = StandIn.segment, itertools.count()

    def once(self: StandIn, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        if next(calls) == 0:
            raise ResultsError("network", "gives results that are not finite.")
        return segment(self, volume, options)

    monkeypatch.setattr(StandIn, "segment", once)
    tally = run_stand_in(cts, out).tally
    assert (tally.done, [*tally.failed]) == (2, ["case-00000"])


def test_unfinished_files_of_other_programs_in_the_folder_stay(tmp_path: Path) -> None:
    cts, out = write_cts(tmp_path / "cts", 1), tmp_path / "out"
    left = (out / ".part-0123abcd.nii.gz", out / ".old-0123abcd" / "x", out / ".part-0123abcd" / "y")
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("half")
    assert run_stand_in(cts, out).tally.done == 1
    assert all(file.exists() for file in left)


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    cts, out = write_cts(tmp_path / "cts", 1), tmp_path / "out"
    run_stand_in(cts, out)
    left = (out / ".part-0123abcd.jsonl", out / "reports" / ".part-0123abcd.json", out / ".batch" / "parts" / "x.nii.gz")
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.write_text("half")
    assert run_stand_in(cts, out).tally.kept == 1
    assert not any(file.exists() for file in left)


@pytest.mark.parametrize(
    "line",
    [
        {"case": "case-00000", "input": {"path": 7, "stamp": [1]}, "output": {"bytes": "x", "mtime_ns": None}},
        {"case": "..", "input": {}},
        {"case": "case-00000", "input": {"path": "\0"}, "status": "done", "reason": {"x": 1}},
        {"case": "case-00000", "status": "failed", "reason": ["x"], "input": {"stamp": None}},
        {"case": "/etc/passwd"},
        {"case": "\ud800"},
    ],
)
def test_a_line_of_a_hostile_manifest_does_no_harm(tmp_path: Path, line: dict[str, object]) -> None:
    cts, out = write_cts(tmp_path / "cts", 1), tmp_path / "out"
    run_stand_in(cts, out)
    good = entries(out)[0]
    with (out / "manifest.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(good | line) + "\n")
    assert run_stand_in(cts, out).tally.failed == {}
    assert [*outputs(out)] == ["case-00000.nii.gz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cts", "out"]
    assert len(entries(out)) == 1
