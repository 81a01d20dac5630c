"""A batch survives the loss of workers and of the scheduler: every case exactly once, with the results of a serial run."""

from __future__ import annotations

import socket
import ssl
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from batch_cases import Members, entries, free_port, outputs, run_stand_in, stand_in_job, write_cts
from medsam2_atlas.base.errors import InputError, UnavailableError
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.session import Session
from medsam2_atlas.batch.tally import Tally
from medsam2_atlas.batch.tls import make_certificates

pytest.importorskip("distributed")


def test_killed_workers_and_scheduler_lose_no_case_and_do_none_twice(tmp_path: Path) -> None:
    count, plan = 40, {6: "worker-0", 14: "scheduler", 24: "worker-0"}
    cts = write_cts(tmp_path / "cts", count)
    run_stand_in(cts, tmp_path / "serial", serial=True)
    with Members(free_port(), seconds=0.2) as members:

        def watch(tally: Tally) -> None:
            for done in [done for done in plan if tally.done >= done]:
                members.kill(plan.pop(done))

        ended = run_stand_in(cts, tmp_path / "out", watch, cluster=members.address)
    assert not plan
    assert (ended.tally.done, ended.tally.failed) == (count, {})
    assert Counter(entry["case"] for entry in entries(tmp_path / "out")) == {f"case-{k:05}": 1 for k in range(count)}
    assert outputs(tmp_path / "out") == outputs(tmp_path / "serial")
    assert not (tmp_path / "out" / ".batch" / "parts").exists()


def test_members_without_a_certificate_of_the_cluster_are_not_admitted(tmp_path: Path) -> None:
    cts = write_cts(tmp_path / "cts", 3)
    make_certificates(tmp_path / "tls")
    make_certificates(tmp_path / "other")
    with Members(free_port(), seconds=0.0, tls=tmp_path / "tls") as members:
        assert members.address.startswith("tls://")
        ended = run_stand_in(cts, tmp_path / "out", cluster=members.address, tls=tmp_path / "tls")
        assert (ended.tally.done, ended.tally.failed) == (3, {})
        assert _answers(members, tmp_path / "tls")
        assert not _answers(members, tmp_path / "other")
        assert not _answers(members, None)


def _answers(members: Members, certificates: Path | None) -> bool:
    """Returns whether the scheduler talks to a client with these certificates."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificates is not None:
        context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    address = ("127.0.0.1", int(members.address.rpartition(":")[2]))
    try:
        with socket.create_connection(address, 10) as plain, context.wrap_socket(plain) as secure:
            return bool(secure.recv(1))
    except (ssl.SSLError, ConnectionError):
        return False


def test_a_scheduler_that_does_not_answer_is_named_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cts = write_cts(tmp_path / "cts", 1)
    config = BatchConfig(lost_after=1)
    monkeypatch.setattr("medsam2_atlas.batch.clusters.batch_config", lambda: config)
    with pytest.raises(UnavailableError, match="does not answer"):
        run_stand_in(cts, tmp_path / "out", cluster=f"tcp://127.0.0.1:{free_port()}")


def test_a_local_cluster_gives_what_a_serial_run_gives_and_records_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cts = write_cts(tmp_path / "cts", 6)
    run_stand_in(cts, tmp_path / "serial", serial=True)
    (cts / "bad.nii.gz").write_bytes(b"")
    tally = run_stand_in(cts, tmp_path / "out", cluster="local", workers=1).tally
    assert "cluster tls://127.0.0.1:" in capsys.readouterr().err  # other users of the machine cannot send it anything
    assert (tally.done, [*tally.failed]) == (6, ["bad"])
    assert outputs(tmp_path / "out") == outputs(tmp_path / "serial")
    assert all("process" in entry["worker"] for entry in entries(tmp_path / "out"))


def test_a_worker_that_would_compute_other_results_stops_the_batch() -> None:
    session = Session(replace(stand_in_job(), key="0" * 20))
    with pytest.raises(InputError, match="other results"):
        session.check()
