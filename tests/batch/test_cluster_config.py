"""The YAML file of a cluster: checked, and turned into job scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.batch.cluster_config import cluster_config

pytest.importorskip("dask_jobqueue")

SLURM = """
queue: slurm
account: radiology
workers:
  - {count: 4, cores: 8, memory: 32GB, walltime: "08:00:00", partition: gpu, gpus: 1, directives: ["--qos=low"]}
  - {count: 8, cores: 4, memory: 16GB, partition: cpu}
container: /images/medsam2 atlas.sif
binds: [/archive]
prologue: ["module load apptainer"]
"""


def read(folder: Path, text: str) -> object:
    file = folder / "cluster.yaml"
    file.write_text(text)
    return cluster_config(file)


def scripts(folder: Path, text: str) -> dict[str, str]:
    from medsam2_atlas.batch.queues import job_scripts

    file = folder / "cluster.yaml"
    file.write_text(text)
    return job_scripts(cluster_config(file))


def test_the_job_scripts_of_slurm_ask_for_what_the_file_says(tmp_path: Path) -> None:
    gpu, cpu = scripts(tmp_path, SLURM).values()
    for line in (
        "-A radiology",
        "-p gpu",
        "--cpus-per-task=8",
        "--mem=30G",
        "-t 08:00:00",
        "--gres=gpu:1",
        "--qos=low",
        "--requeue",
    ):
        assert f"#SBATCH {line}" in gpu, line
    assert "apptainer exec --nv --bind /archive '/images/medsam2 atlas.sif' python3 -m distributed.cli.dask_worker" in gpu
    assert "--nthreads 1" in gpu and "--resources GPU=1" in gpu and "--protocol tls://" in gpu
    assert "export OMP_NUM_THREADS=8" in gpu and "module load apptainer" in gpu
    assert "--resources CPU=1" in cpu and "--nv" not in cpu and "gres" not in cpu


@pytest.mark.parametrize(
    ("queue", "words"), [("pbs", ("select=1:ncpus=8:mem=32gb:ngpus=1", "-A radiology")), ("lsf", ("-n 8", "num=1"))]
)
def test_other_queues_get_their_own_directives(tmp_path: Path, queue: str, words: tuple[str, ...]) -> None:
    text = SLURM.replace("queue: slurm", f"queue: {queue}").replace(', directives: ["--qos=low"]', "")
    gpu = next(iter(scripts(tmp_path, text).values()))
    assert all(word in gpu for word in words), gpu


@pytest.mark.parametrize(
    "change",
    [
        ("partition: gpu", 'partition: "gpu; rm -rf /"'),
        ("account: radiology", 'account: "$(id)"'),
        ("32GB", "much"),
        ("count: 4", "count: 0"),
        ("queue: slurm", "queue: cron"),
        ("queue: slurm", "queue: slurm\nshell: sh"),
        ('["--qos=low"]', '["x\\n#SBATCH"]'),
        ("module load apptainer", "a\\nb"),
        ("08:00:00", "soon"),
        (SLURM, "[]"),
        (SLURM, "{"),
        (SLURM, "x" * 200_000),
    ],
)
def test_a_file_that_does_not_describe_a_cluster_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path, SLURM.replace(*change))
    assert error.value.remedy
