"""The command `serve` checks the port before it starts the server."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli import app, port
from medsam2_atlas.cli.port import check_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", ""])
def test_a_taken_port_is_named_with_the_process_that_listens(host: str, taken: int) -> None:
    with pytest.raises(InputError) as refused:
        check_port(host, taken)
    assert refused.value.subject == f"{host}:{taken}"
    assert "is taken" in refused.value.problem
    assert f"(process {os.getpid()}) listens" in refused.value.problem
    assert "--port" in refused.value.remedy


def test_a_free_port_is_accepted_and_stays_free(taken: int) -> None:
    number = free_port()
    for host in ("127.0.0.1", "localhost", "0.0.0.0", ""):
        check_port(host, number)
    with socket.create_server(("127.0.0.1", number)) as listener:
        assert listener.getsockname()[1] == number


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6_addresses_are_checked_too() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no ::1")
    with listener:
        number = int(listener.getsockname()[1])
        with pytest.raises(InputError, match=rf"^\[::1\]:{number}: is taken"):
            check_port("::1", number)
        check_port("127.0.0.1", number)
    check_port("::1", number)


def test_a_port_whose_last_connection_has_just_ended_is_accepted() -> None:
    """The server accepts it too: after a restart, the kernel keeps closed connections for a minute (TIME_WAIT)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = int(listener.getsockname()[1])
        with socket.create_connection(("127.0.0.1", number)) as client:
            served, _ = listener.accept()
            served.close()
            assert client.recv(1) == b""
    with closing(socket.socket()) as plain, pytest.raises(OSError, match="in use"):
        plain.bind(("127.0.0.1", number))
    check_port("127.0.0.1", number)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(InputError, match=r"this machine has no such address|cannot be bound"):
        check_port(host, free_port())


@pytest.mark.parametrize("host", ["x" * 70 + ".example", "no such host"])
def test_an_unknown_host_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if " " in host:  # otherwise the test would send a request to a name server
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InputError, match="no host has that name"):
        check_port(host, free_port())


def test_a_privileged_port_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forbidden(host: str, port: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(port, "_bind", forbidden)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:80: .* privileged.*above 1023"):
        check_port("127.0.0.1", 80)


def test_the_server_is_not_started_on_a_taken_port(taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(os, "execv", lambda *arguments: started.append(arguments))
    done = CliRunner().invoke(app, ["serve", str(tmp_path), "--port", str(taken)])
    assert f"127.0.0.1:{taken}: is taken" in str(done.exception)
    assert not started


def test_a_handle_closed_meanwhile_does_not_hide_the_others(tmp_path: Path) -> None:
    class Closed(type(tmp_path)):  # type: ignore[misc]
        def readlink(self) -> Path:
            if self.name == "3":
                raise FileNotFoundError(self)
            return Path(f"socket:[{self.name}]")

    (tmp_path / "fd").mkdir()
    for name in ("3", "4"):
        (tmp_path / "fd" / name).touch()
    assert port._open_files(Closed(tmp_path)) == {"socket:[4]"}
