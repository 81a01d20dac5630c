"""`medsam2-atlas cluster …`: certificates and job scripts for batches on a Dask cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medsam2_atlas.base.console import echo
from medsam2_atlas.cli.outputs import check_folder

app = typer.Typer(help="Certificates and job scripts for batches on a cluster.", no_args_is_help=True)


@app.command("certificates")
def certificates_command(
    folder: Annotated[
        Path, typer.Argument(help="New folder for the certificates, on a disk that all machines of the cluster share.")
    ],
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long they are valid, in days.")] = 365,
) -> None:
    """Make an authority and a certificate for all members of a cluster (mutual TLS); only your user can read the key."""
    check_folder(folder)
    from medsam2_atlas.batch.tls import make_certificates

    make_certificates(folder, days)
    files = f"--tls-ca-file {folder}/ca.pem --tls-cert {folder}/cert.pem --tls-key {folder}/key.pem"
    echo(
        f"certificates written to {folder}, valid for {days} days",
        f"scheduler: dask scheduler --protocol tls --host HOST --dashboard-address 127.0.0.1:8787 {files}",
        f"worker:    dask worker tls://HOST:8786 --nthreads 1 --no-dashboard {files}",
        f"batch:     medsam2-atlas batch INPUT OUT --cluster tls://HOST:8786 --tls {folder}",
    )


@app.command("script")
def script_command(
    file: Annotated[Path, typer.Argument(help="YAML file of a cluster; see docs/cluster.md.")],
) -> None:
    """Print the job scripts that a batch would submit for a cluster's YAML file, without submitting anything."""
    from medsam2_atlas.batch.addresses import check_cluster

    check_cluster(str(file), None)
    from medsam2_atlas.batch.cluster_config import cluster_config
    from medsam2_atlas.batch.queues import job_scripts

    for name, script in job_scripts(cluster_config(file)).items():
        echo(f"# {name}", *script.splitlines(), "")
