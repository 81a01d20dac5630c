"""Checks that the server can listen on its port, before the server loads any library."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import suppress
from pathlib import Path

from medsam2_atlas.base.errors import InputError

_PROC = Path("/proc")
_LISTENS = "0A"
"""State of a listening socket in /proc/net/tcp."""
_OWN_ADDRESS = "Give --host an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them."


def check_port(host: str, port: int) -> None:
    """Checks that asyncio can bind an address, with the options that the server will use.

    Another program can still take the port before the server starts; the server then reports its own error.

    Args:
        host: name or address of this machine; an empty string means all its addresses.
        port: TCP port, 1 to 65535.

    Raises:
        InputError: the port is taken or privileged, or the host is unknown or another machine.
    """
    where = f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
    try:
        asyncio.run(_bind(host, port))
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: a part of the name is empty or too long
        raise InputError(where, f"cannot be bound: no host has that name ({error}).", _OWN_ADDRESS) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                where, f"is taken: {_listener(port)} listens on it.", "Choose another --port, or stop that program."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise InputError(where, "cannot be bound: the port is privileged.", "Choose a --port above 1023.") from error
        if error.errno in (errno.EADDRNOTAVAIL, None):
            raise InputError(where, "cannot be bound: this machine has no such address.", _OWN_ADDRESS) from error
        raise InputError(where, f"cannot be bound ({error.strerror}).", _OWN_ADDRESS) from error


async def _bind(host: str, port: int) -> None:
    """Binds the addresses of a host and releases them; never accepts a connection."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    server.close()


def _listener(port: int) -> str:
    """Returns the name and id of the process that listens on a port, or "another program" if it belongs to another user."""
    with suppress(OSError):
        sockets = {f"socket:[{inode}]" for inode in _listening(port)}
        for process in sorted(file for file in _PROC.iterdir() if file.name.isdigit()):
            with suppress(OSError):  # the process has ended, or belongs to another user
                if sockets & _open_files(process):
                    name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                    return f"{name} (process {process.name})"
    return "another program"


def _open_files(process: Path) -> set[str]:
    """Returns the targets of the open file handles of a process in /proc."""
    found = set()
    for handle in (process / "fd").iterdir():
        with suppress(OSError):  # the handle was closed meanwhile, as is the one of this listing itself
            found.add(str(handle.readlink()))
    return found


def _listening(port: int) -> set[str]:
    """Returns the inodes of the sockets that listen on a port, on any address."""
    found = set()
    for table in ("net/tcp", "net/tcp6"):
        with suppress(OSError):  # the machine has no IPv6
            for line in (_PROC / table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found
