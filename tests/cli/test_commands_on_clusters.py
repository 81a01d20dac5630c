"""`evaluate` and `atlas build` on a cluster give what they give in one process, even if a worker is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from batch_cases import Members, free_port
from blocks import FEW_STEPS, PATIENT, labelled
from medsam2_atlas.atlas import Atlas, BuildOptions, build_atlas, find_references
from medsam2_atlas.base.overlay import choose_settings
from medsam2_atlas.cli import app
from medsam2_atlas.experiment.record import Record

pytest.importorskip("distributed")

from medsam2_atlas.batch.cluster_map import ClusterMap


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks")
    for number in range(3):
        labelled(folder / "references", f"r{number}", PATIENT, z_from=12 + number)
        labelled(folder / "targets", f"t{number}", PATIENT, z_from=15 + number)
    build_atlas(find_references(folder / "references"), BuildOptions(registration=FEW_STEPS)).save(folder / "atlas")
    return folder


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Returns a list of functions; the first one is called after the first result of a cluster, and so on."""
    calls: list[Callable[[], None]] = []
    whole = ClusterMap.__call__

    def call(self: ClusterMap, function: Any, arguments: Any) -> Iterator[tuple[int, Any]]:
        for one in whole(self, function, arguments):
            if calls:
                calls.pop(0)()
            yield one

    monkeypatch.setattr(ClusterMap, "__call__", call)
    return calls


def ran(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def evaluated(data: Path, out: Path, *options: str) -> dict[str, tuple[Any, bytes]]:
    """Returns scores and label map of each case."""
    folders = ("--images", data / "targets" / "images", "--labels", data / "targets" / "labels", "--atlas", data / "atlas")
    method = ("--segmenters", "atlas", "--registration", "dense", "--device", "cpu", "--hu", "as-is")
    ran("evaluate", *folders, "--out", out, *method, *options)
    records = [Record.read(file) for file in sorted((out / "records" / "atlas").iterdir())]
    return {
        record.case: (
            (record.organs, record.confusion, record.key, record.threads),
            (out / "labels" / "atlas" / f"{record.case}.nii.gz").read_bytes(),
        )
        for record in records
    }


def test_an_evaluation_on_a_cluster_gives_what_it_gives_here(
    data: Path, tmp_path: Path, killed: list[Callable[[], None]]
) -> None:
    here = evaluated(data, tmp_path / "here")
    assert len(here) == 3
    assert evaluated(data, tmp_path / "local", "--cluster", "local", "--workers", "2") == here
    with Members(free_port(), 0.0) as members:
        killed.append(lambda: members.kill("worker-0"))
        assert evaluated(data, tmp_path / "named", "--cluster", members.address) == here
    assert not killed


def built(data: Path, out: Path, *options: str) -> tuple[str, dict[str, np.ndarray]]:
    """Returns version and arrays of a new atlas."""
    ran("atlas", "build", data / "references", out, "--hu", "as-is", *options)
    with np.load(out / "maps.npz") as maps, np.load(out / "template.npz") as template:
        return Atlas.load(out).version, {**maps, **template}


def test_an_atlas_built_on_a_cluster_is_the_one_built_here(
    data: Path, tmp_path: Path, killed: list[Callable[[], None]]
) -> None:
    choose_settings("registration.yaml", {"method": "dense", "adam_steps": 20, "affine_steps": [30, 15]})
    version, arrays = built(data, tmp_path / "here")
    assert arrays
    with Members(free_port(), 0.0) as members:
        for name, cluster in (("local", ("local", "--workers", "2")), ("named", (members.address,))):
            if name == "named":
                killed.append(lambda: members.kill("worker-0"))
            found = built(data, tmp_path / name, "--threads", "1", "--cluster", *cluster)
            assert found[0] == version
            assert {*found[1]} == {*arrays}
            assert all(np.array_equal(found[1][key], value) for key, value in arrays.items())
    assert not killed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "local", "named"]
