"""`medsam2-atlas batch` and `cluster`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from batch_cases import write_cts
from command_lines import run
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli import app


def test_a_folder_is_segmented_resumed_and_a_failure_gives_status_1(tmp_path: Path) -> None:
    cts, out = write_cts(tmp_path / "cts", 2, size=32), tmp_path / "out"
    command = ["batch", str(cts), str(out), "--segmenter", "unet_3d", "--hu", "as-is", "--device", "cpu"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "2 cases segmented; " in done.output
    assert len([*(out / "labels").iterdir()]) == 2
    (cts / "bad.nii.gz").write_bytes(b"")
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 1
    assert "0 cases segmented, 2 unchanged, 1 failed" in done.output
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert lines[0]["provenance"]["weights"] and {line.get("status") for line in lines[1:]} == {"done", "failed"}


def test_a_cluster_without_encryption_is_refused_before_anything_is_imported(tmp_path: Path) -> None:
    ran = run(["batch", str(tmp_path), str(tmp_path / "out"), "--cluster", "tcp://10.0.0.1:8786"])
    assert ran.status == 1
    assert "needs mutual TLS" in " ".join(ran.output.split())
    assert not {"torch", "distributed", "dask"} & ran.modules
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--serial", "--cluster", "local"], "does not fit"),
        (["--workers", "2"], "local only"),
        (["--segmenter", "medsam2"], "person's marks"),
        (["--cluster", "no.yaml"], "does not exist"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: list[str], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        CliRunner().invoke(app, ["batch", str(tmp_path), str(tmp_path / "out"), *options], catch_exceptions=False)


def test_certificates_and_job_scripts_are_written(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["cluster", "certificates", str(tmp_path / "tls")], catch_exceptions=False)
    assert done.exit_code == 0 and "dask scheduler --protocol tls" in done.output
    assert "--host HOST --dashboard-address 127.0.0.1:8787" in done.output  # a dashboard has no login
    assert "--no-dashboard" in done.output
    file = tmp_path / "cluster.yaml"
    file.write_text("queue: slurm\nworkers: [{count: 2, partition: short}]\n")
    done = CliRunner().invoke(app, ["cluster", "script", str(file)], catch_exceptions=False)
    assert done.exit_code == 0 and "#SBATCH -p short" in done.output and "2 x cpu-0" in done.output
