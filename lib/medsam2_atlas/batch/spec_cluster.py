"""Starts a scheduler and workers by Dask's `SpecCluster`, with mutual TLS."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Security, SpecCluster

from medsam2_atlas.batch.tls import CERTIFICATES

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 20


@contextmanager
def started(**arguments: Any) -> Iterator[SpecCluster]:
    """Starts scheduler and workers, yields them, and closes them. Members that do not close in time end with this process.

    Args:
        arguments: the arguments of `SpecCluster`.
    """
    cluster = SpecCluster(**arguments, silence_logs=logging.ERROR)
    try:
        yield cluster
    finally:
        try:
            cluster.close(timeout=_CLOSE_SECONDS)
        except Exception:  # results are stored already, and a busy machine may miss any of Dask's time limits
            log.info("the cluster did not close properly", exc_info=True)


def security_of(folder: Path) -> Security:
    """Returns mutual TLS with the certificates of a folder; traffic without TLS is refused."""
    authority, certificate, key = (str((folder / name).resolve()) for name in CERTIFICATES)
    pairs = {
        f"tls_{role}_{part}": value
        for role in ("client", "scheduler", "worker")
        for part, value in (("cert", certificate), ("key", key))
    }
    return Security(tls_ca_file=authority, require_encryption=True, **pairs)
