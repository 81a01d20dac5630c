"""Options of the commands that can run on a cluster, and their checks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medsam2_atlas.base.errors import InputError

if TYPE_CHECKING:
    from medsam2_atlas.batch.cluster_map import ClusterMap

ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster",
        help="Run on a Dask cluster: `local`, the address of a scheduler, or a YAML file for SLURM, PBS or LSF; see "
        "docs/cluster.md. Default: this process alone.",
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(min=0, show_default=False, help="Number of workers of `--cluster local`. Default: one for each GPU or CPU."),
]
TlsOption = Annotated[
    Path | None,
    typer.Option("--tls", help="Folder of the cluster's certificates (`medsam2-atlas cluster certificates`)."),
]
ThreadsOption = Annotated[
    int,
    typer.Option(
        min=0,
        show_default=False,
        help="Threads of PyTorch in each process. Default: PyTorch's own number; on a cluster, 1.",
    ),
]


def check_cluster_options(cluster: str, workers: int, tls: Path | None) -> None:
    """Checks the options of a cluster, before anything is imported or started.

    Raises:
        InputError: Dask is not installed, the cluster does not exist, its traffic would not be encrypted, or an option does not
            fit it.
    """
    if workers and cluster != "local":
        raise InputError("--workers", "is for --cluster local only.", "Other clusters have their own workers.")
    if tls is not None and not cluster.startswith("tls://"):
        raise InputError("--tls", "is for the address of a scheduler, tls://HOST:PORT.", "Omit it.")
    if cluster:
        from medsam2_atlas.batch.addresses import check_cluster

        check_cluster(cluster, tls)


@contextmanager
def on_cluster(
    cluster: str, workers: int, tls: Path | None, threads: int, folder: Path, gpus: int = 0, *, network: bool = False
) -> Iterator[ClusterMap | None]:
    """Opens a cluster for the block, and yields the function that works on it; None without a cluster.

    Args:
        cluster: see `ClusterOption`.
        workers: number of workers of `local`.
        tls: folder of certificates.
        threads: threads of PyTorch in each worker; jobs of a queue have their own number, see `ClusterMap.threads`.
        folder: folder on the shared disk; certificates and logs of a queue's jobs go into `.cluster` in it.
        gpus: number of this machine's GPUs that the workers of `local` may use.
        network: whether the tasks run networks: workers with a GPU then do them if there are any.
    """
    if not cluster:
        yield None
        return
    from medsam2_atlas.batch.cluster_map import cluster_map
    from medsam2_atlas.batch.clusters import Wanted

    with cluster_map(cluster, Wanted(workers, threads, gpus), tls=tls, work=folder / ".cluster", network=network) as mapped:
        yield mapped
