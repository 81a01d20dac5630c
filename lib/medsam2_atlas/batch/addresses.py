"""Checks how a cluster is named and reached, without importing Dask.

Schedulers and workers run what they are sent. Everything but the loopback interface therefore needs mutual TLS.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import re
from pathlib import Path

from medsam2_atlas.base.errors import InputError

_ADDRESS = re.compile(r"(?P<protocol>[a-z]+)://(?:\[(?P<six>[0-9A-Fa-f:]+)\]|(?P<host>[^:/\[\]]+)):(?P<port>\d{1,5})")
_MAX_PORT = 65535
_PACKAGE, _QUEUE_PACKAGE = "distributed", "dask_jobqueue"


def check_cluster(text: str, tls: Path | None) -> None:
    """Checks the name of a cluster before anything is started.

    Args:
        text: `local`, the address of a scheduler, or a YAML file.
        tls: folder of certificates; None without.

    Raises:
        InputError: Dask is not installed, the text names no cluster, or its traffic would not be encrypted.
    """
    queue = text.endswith((".yaml", ".yml"))
    for package in (_PACKAGE, _QUEUE_PACKAGE)[: 2 if queue else 1]:
        if importlib.util.find_spec(package) is None:
            raise InputError(
                "--cluster",
                f"needs Dask ({package}), which is not installed.",
                "Install it: pip install 'medsam2_atlas[cluster]'",
            )
    if queue and not Path(text).is_file():
        raise InputError(text, "does not exist.", "Name a YAML file; docs/cluster.md has an example.")
    if queue or text == "local":
        return
    check_address(text, encrypted=tls is not None)
    if tls is not None:
        from medsam2_atlas.batch.tls import check_certificates

        check_certificates(tls)


def check_address(address: str, *, encrypted: bool) -> None:
    """Checks that an address is one of this machine's loopback interface, or that traffic to it is encrypted.

    Args:
        address: such as `tcp://127.0.0.1:8786` or `tls://head:8786`.
        encrypted: whether certificates are given.

    Raises:
        InputError: the text is no address, or would be used without mutual TLS.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or found["protocol"] not in ("tcp", "tls"):
        remedy = "Name `local`, an address such as tls://HOST:8786, or a YAML file."
        raise InputError(repr(address[:80]), "is no cluster.", remedy)
    if not 0 < int(found["port"]) <= _MAX_PORT:
        raise InputError(address, f"has the port {found['port']}; ports are 1 to {_MAX_PORT}.", "Correct the port.")
    if found["protocol"] == "tls":
        if not encrypted:
            raise InputError(address, "needs certificates.", "Name their folder by --tls; see docs/cluster.md.")
        return
    if encrypted:
        raise InputError(address, "is not encrypted although certificates are given.", "Start its scheduler with them: tls://…")
    if not is_local(address):
        raise InputError(
            address,
            "is not this machine, and a scheduler runs what it is sent: its traffic needs mutual TLS.",
            "Make certificates by `medsam2-atlas cluster certificates FOLDER`, and use tls:// with --tls FOLDER.",
        )


def check_member(address: str) -> None:
    """Checks the address that a scheduler or a worker announces: it is encrypted, or this machine's loopback interface.

    Raises:
        InputError: others can send it something to run.
    """
    if not address.startswith("tls://") and not is_local(address):
        raise InputError(
            address,
            "can be reached from the network without certificates, and runs what it is sent.",
            "Start scheduler and workers with --host 127.0.0.1, or with certificates and tls://.",
        )


def is_local(address: str) -> bool:
    """Returns whether an address without encryption is one of the loopback interface.

    >>> is_local("tcp://127.0.0.1:8786"), is_local("tcp://[::1]:8786"), is_local("tcp://0.0.0.0:8786"), is_local("ucx://::1:1")
    (True, True, False, False)
    """
    found = _ADDRESS.fullmatch(address)
    return found is not None and found["protocol"] == "tcp" and is_loopback(found["six"] or found["host"])


def is_loopback(host: str) -> bool:
    """Returns whether a host is a loopback address. Names other than localhost are not looked up.

    >>> is_loopback("127.0.0.2"), is_loopback("::1"), is_loopback("10.0.0.1"), is_loopback("localhost.evil.example")
    (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
