"""The description of a cluster with a queue (SLURM, PBS, LSF): a YAML file that a user writes, checked before anything runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator

from medsam2_atlas.base.configuration import Settings, problems_of
from medsam2_atlas.base.errors import InputError

Queue = Literal["slurm", "pbs", "lsf"]
_MAX_BYTES = 100_000
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:,=@+/-]*")
_MEMORY = re.compile(r"[1-9]\d* ?(MB|GB|MiB|GiB)")
_WALLTIME = re.compile(r"(?:(\d{1,3})-)?(\d{1,4}):([0-5]\d):([0-5]\d)")


def _word(value: str) -> str:
    if value and not _WORD.fullmatch(value):
        raise ValueError("has characters that would be special in a job script")
    return value


def _line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be one printable line")
    return value


def _memory(value: str) -> str:
    if not _MEMORY.fullmatch(value):
        raise ValueError("is not a size such as 16GB")
    return value


def _walltime(value: str) -> str:
    if not _WALLTIME.fullmatch(value):
        raise ValueError("is not a time such as 12:00:00 (hours:minutes:seconds)")
    return value


Word = Annotated[str, AfterValidator(_word)]
"""A text without characters that mean something in a shell."""
Line = Annotated[str, AfterValidator(_line)]


class WorkerGroup(Settings):
    """Workers of one kind. Each of them is a job of the queue."""

    count: int = Field(ge=1, le=10_000, description="number of workers, each a job of the queue")
    cores: int = Field(1, ge=1, le=1024, description="cores of a worker, which are PyTorch's threads in it")
    memory: Annotated[str, AfterValidator(_memory)] = Field("16GB", description="memory of a worker, such as 16GB")
    walltime: Annotated[str, AfterValidator(_walltime)] = Field(
        "12:00:00", description="longest time of a job, as hours:minutes:seconds or days-hours:minutes:seconds"
    )
    partition: Word = Field("", description="partition (SLURM) or queue (PBS, LSF); empty: the queue's default")
    gpus: int = Field(0, ge=0, le=1, description="GPUs of a worker: with 1 it runs networks, with 0 it registers")
    directives: tuple[Line, ...] = Field(
        (), description="further directives of the job script, such as --gres=gpu:1 or --qos=low"
    )

    @property
    def seconds(self) -> int:
        """The longest time of a job, in s."""
        days, *rest = _WALLTIME.fullmatch(self.walltime).groups("0")  # type: ignore[union-attr]
        hours, minutes, seconds = map(int, rest)
        return ((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds

    @field_validator("directives")
    @classmethod
    def _directives(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not text.startswith("-") for text in value):
            raise ValueError("each directive begins with -")
        return value


class ClusterConfig(Settings):
    """A cluster with a queue."""

    queue: Queue = Field(description="the queue: slurm, pbs or lsf")
    account: Word = Field("", description="account or project that pays; empty: the user's default")
    workers: tuple[WorkerGroup, ...] = Field(min_length=1, max_length=8, description="groups of workers")
    python: Line = Field("", description="Python on the workers' machines; empty: the Python of this command")
    container: Line = Field("", description="Apptainer image (.sif) that contains medsam2_atlas; empty: none")
    binds: tuple[Line, ...] = Field((), description="folders to bind into the container")
    prologue: tuple[Line, ...] = Field((), description="lines of shell before a worker starts, such as `module load cuda`")
    interface: Word = Field("", description="network interface of the workers, such as ib0; empty: the default one")
    scheduler_interface: Word = Field("", description="network interface of this machine; empty: as `interface`")
    local_directory: Line = Field("", description="folder for temporary data on the workers' machines; empty: the system's")
    tls: Line = Field("", description="folder of certificates on the shared disk; empty: new ones in the folder of the outputs")


def cluster_config(file: Path) -> ClusterConfig:
    """Reads the description of a cluster.

    Raises:
        InputError: the file cannot be read, or its content is not valid.
    """
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InputError(file, "is too large to describe a cluster.", "docs/cluster.md has an example.")
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return ClusterConfig.model_validate(content)
    except ValidationError as error:
        raise InputError(
            file, f"does not describe a cluster: {problems_of(error)}.", "docs/cluster.md has an example."
        ) from error
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(file, f"cannot be read ({error}).", "docs/cluster.md has an example.") from error
