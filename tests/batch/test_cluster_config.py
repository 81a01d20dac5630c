"""The YAML file of a cluster: checked, and turned into job scripts."""

from __future__ import annotations

import shlex
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


def command(script: str) -> list[str]:
    """Returns the words of a job script's command, as a shell reads them."""
    return shlex.split(script.strip().splitlines()[-1])


def test_no_path_means_anything_to_the_shell_of_a_job(tmp_path: Path) -> None:
    from medsam2_atlas.batch.queues import job_options

    file, odd = tmp_path / "cluster.yaml", "/tmp/x; touch evil #"
    file.write_text(SLURM + f"local_directory: '{odd}'\ntls: '{odd}'\npython: '{odd}'\n")
    config = cluster_config(file)
    words = command(next(iter(scripts(tmp_path, file.read_text()).values())))
    for option, value in (
        ("--local-directory", odd),
        ("--tls-ca-file", f"{odd}/ca.pem"),
        ("--tls-cert", f"{odd}/cert.pem"),
        ("--tls-key", f"{odd}/key.pem"),
    ):
        assert words[words.index(option) + 1] == value
    assert odd in words and "touch" not in words
    with pytest.raises(InputError, match="job script"):
        job_options(config, config.workers[0], tmp_path, tmp_path / "my results" / "logs")


@pytest.mark.parametrize(
    ("queue", "directive", "asked"),
    [
        ("slurm", "--qos=gpu-low", True),
        ("slurm", "--gpus-per-node=a100:1", False),
        ("slurm", "-G 1", False),
        ("pbs", "-q low-gpu", True),
        ("pbs", "-l ngpus=1", False),
        ("lsf", "-G gpu-users", True),
        ("lsf", "-gpu num=1:mode=shared", False),
    ],
)
def test_a_gpu_is_asked_for_unless_a_directive_does(tmp_path: Path, queue: str, directive: str, asked: bool) -> None:
    text = SLURM.replace("queue: slurm", f"queue: {queue}").replace("--qos=low", directive)
    gpu = next(iter(scripts(tmp_path, text).values()))
    own = {"slurm": "--gres=gpu:1", "pbs": ":ngpus=1", "lsf": "-gpu num=1\n"}[queue]
    assert (own in gpu) == asked and directive in gpu


def test_the_longest_time_is_written_as_the_queue_expects_it(tmp_path: Path) -> None:
    text = SLURM.replace("08:00:00", "1-08:00:30")
    found = {queue: next(iter(scripts(tmp_path, text.replace("slurm", queue)).values())) for queue in ("slurm", "pbs", "lsf")}
    assert "#SBATCH -t 32:00:30\n" in found["slurm"]
    assert "#PBS -l walltime=32:00:30\n" in found["pbs"]
    assert "#BSUB -W 32:01\n" in found["lsf"]


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
        ("08:00:00", "08:00"),
        ("08:00:00", "08:00:00\\nrm -rf /"),
        ("32GB", '"32GB\\nrm -rf /"'),
        (SLURM, "[]"),
        (SLURM, "{"),
        (SLURM, "x" * 200_000),
    ],
)
def test_a_file_that_does_not_describe_a_cluster_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path, SLURM.replace(*change))
    assert error.value.remedy
