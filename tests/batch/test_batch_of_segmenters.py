"""Batches with real segmenters: label maps are equal to those of a serial run, wherever their steps run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from batch_cases import Members, entries, free_port, outputs
from blocks import FEW_STEPS, PATIENT, labelled
from medsam2_atlas.atlas import BuildOptions, build_atlas, find_references
from medsam2_atlas.batch import Batch, Ended, Job, run_batch
from medsam2_atlas.batch.tally import Tally
from medsam2_atlas.segmenters.base import Options

pytest.importorskip("distributed")

CASES = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with patients made of blocks in `images`, and an atlas of two others."""
    folder = tmp_path_factory.mktemp("blocks")
    for number in range(2):
        labelled(folder / "references", f"r{number}", PATIENT, z_from=12 + number)
    for number in range(CASES):
        labelled(folder / "targets", f"t{number}", PATIENT, z_from=12 + number)
    references = find_references(folder / "references")
    build_atlas(references, BuildOptions(registration=FEW_STEPS)).save(folder / "atlas")
    return folder


def segmented(data: Path, out: Path, segmenter: str, watch: Any = lambda _: None, **options: Any) -> Ended:
    """Runs a batch with one thread in each process."""
    conf = {"atlas": str(data / "atlas"), "device": "cpu"}
    job = Job(segmenter, Path(), conf, Options(organs=(6,)), hu="as-is", registration="dense", threads=1)
    return run_batch(Batch(str(data / "targets" / "images"), out, job, **options), watch)


@pytest.fixture(scope="module")
def serial(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Returns the label maps of a serial run of each segmenter."""
    found = {}
    for segmenter in ("atlas", "B"):
        out = tmp_path_factory.mktemp("serial") / segmenter
        assert segmented(data, out, segmenter, serial=True).tally.done == CASES
        found[segmenter] = outputs(out)
        for file in (out / "labels").iterdir():
            assert sitk.GetArrayFromImage(sitk.ReadImage(str(file))).any()
    return found


@pytest.mark.parametrize("options", [{}, {"cluster": "local", "workers": 2}], ids=["pipelined", "cluster"])
@pytest.mark.parametrize("segmenter", ["atlas", "B"])
def test_label_maps_do_not_depend_on_where_they_are_made(
    data: Path, tmp_path: Path, serial: dict[str, dict[str, bytes]], segmenter: str, options: dict[str, Any]
) -> None:
    tally = segmented(data, tmp_path, segmenter, **options).tally
    assert (tally.done, tally.failed) == (CASES, {})
    assert outputs(tmp_path) == serial[segmenter]
    assert not (tmp_path / ".batch" / "parts").exists()


def test_cpu_workers_register_gpu_workers_run_networks_and_either_may_be_lost(
    data: Path, tmp_path: Path, serial: dict[str, dict[str, bytes]]
) -> None:
    plan = {1: "cpu-0", 2: "gpu-0"}
    with Members(free_port(), 0.0, workers={"cpu-0": "CPU", "gpu-0": "GPU"}) as members:

        def watch(tally: Tally) -> None:
            for done in [done for done in plan if tally.done >= done]:
                members.kill(plan.pop(done))

        tally = segmented(data, tmp_path, "B", watch, cluster=members.address).tally
    assert not plan
    assert (tally.done, tally.failed) == (CASES, {})
    made = entries(tmp_path)
    assert sorted(entry["case"] for entry in made) == [f"t{number}" for number in range(CASES)]
    assert {(entry["prepared_by"].partition(",")[0], entry["worker"].partition(",")[0]) for entry in made} == {
        ("cpu-0", "gpu-0")
    }
    assert outputs(tmp_path) == serial["B"]
