"""A cluster outside of this machine is only used with mutual TLS."""

from __future__ import annotations

import stat
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from medsam2_atlas import segment_many
from medsam2_atlas.base.errors import ConflictError, InputError
from medsam2_atlas.batch import addresses, tls
from medsam2_atlas.batch.addresses import check_cluster, check_member
from medsam2_atlas.batch.tls import CERTIFICATES, last_long_enough, make_certificates


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "tcp://[::1]:8786", "tcp://localhost:1"])
def test_only_tcp_on_the_loopback_interface_needs_no_certificates(address: str) -> None:
    check_cluster(address, None)
    with pytest.raises(InputError):
        check_cluster(address.replace("tcp:", "tls:"), None)


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.1:8786", "tcp://head:8786", "tcp://[fe80::1]:8786", "tcp://localhost.x:1", "tls://head:8786"]
)
def test_no_other_address_is_used_without_mutual_tls(address: str) -> None:
    with pytest.raises(InputError, match=r"mutual TLS|certificates") as error:
        check_cluster(address, None)
    assert "--tls" in error.value.remedy


@pytest.mark.parametrize("text", ["head", "http://head:1", "tcp://head", "ucx://127.0.0.1:1", "tcp://a:b@head:1", ""])
def test_other_texts_are_no_cluster(text: str) -> None:
    with pytest.raises(InputError, match="is no cluster"):
        check_cluster(text, None)


def test_certificates_are_private_and_one_authority_signs_them(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    make_certificates(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in CERTIFICATES} == {0o600}
    root, member = (x509.load_pem_x509_certificate((folder / name).read_bytes()) for name in CERTIFICATES[:2])
    member.verify_directly_issued_by(root)
    check_cluster("tls://head:8786", folder)
    with pytest.raises(ConflictError):
        make_certificates(folder)
    (folder / "key.pem").chmod(0o640)
    with pytest.raises(InputError, match="other users"):
        check_cluster("tls://head:8786", folder)
    with pytest.raises(InputError, match="not encrypted"):
        check_cluster("tcp://127.0.0.1:8786", folder)


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_an_address_with_an_impossible_port_is_refused(port: str) -> None:
    with pytest.raises(InputError, match=f"has the port {port}"):
        check_cluster(f"tcp://127.0.0.1:{port}", None)


def later(days: int) -> type[datetime]:
    """Returns a clock that is some days ahead."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Later:
            return cls.fromtimestamp(time.time(), tz) + timedelta(days=days)

    return Later


def refused(folder: Path) -> InputError:
    """Returns the error of a command that uses a folder of certificates."""
    with pytest.raises(InputError) as error:
        check_cluster("tls://head:8786", folder)
    return error.value


def test_certificates_that_cannot_be_used_are_named_before_a_connection_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert "is not a folder" in refused(tmp_path / "none").problem
    (tmp_path / "empty").mkdir()
    assert "is missing" in refused(tmp_path / "empty").problem
    for name in ("tls", "other"):
        make_certificates(tmp_path / name, days=5)
    check_cluster("tls://head:8786", tmp_path / "tls")
    assert "expires on" in caplog.text

    def mixed(file: str, content: bytes) -> InputError:
        kept = (tmp_path / "tls" / file).read_bytes()
        (tmp_path / "tls" / file).write_bytes(content)
        try:
            return refused(tmp_path / "tls")
        finally:
            (tmp_path / "tls" / file).write_bytes(kept)

    other = {name: (tmp_path / "other" / name).read_bytes() for name in CERTIFICATES}
    assert "not signed by the authority" in mixed("ca.pem", other["ca.pem"]).problem
    assert "not the key of cert.pem" in mixed("cert.pem", other["cert.pem"]).problem
    assert "not the key of cert.pem" in mixed("key.pem", other["key.pem"]).problem
    for name in CERTIFICATES:
        error = mixed(name, other[name][:60])
        assert "damaged" in error.problem and "cluster certificates" in error.remedy

    monkeypatch.setattr(tls, "datetime", later(days=6))
    error = refused(tmp_path / "tls")
    assert "expired on" in error.problem and "cluster certificates" in error.remedy
    monkeypatch.setattr(tls, "datetime", later(days=-1))
    assert "not valid before" in refused(tmp_path / "tls").problem


def test_a_chain_of_certificates_is_followed_to_the_authority_and_each_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = serialization.Encoding.PEM

    def signed(name: str, issuer: str, signer: Any, days: int = 30, authority: bool = True) -> tuple[Any, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        names = (tls._name(name), tls._name(issuer))
        return key, tls._certificate(*names, key.public_key(), signer or key, days, authority=authority).public_bytes(pem)

    root_key, root = signed("root", "root", None)
    _, other = signed("other", "other", None)
    between_key, between = signed("between", "root", root_key, days=5)
    key, member = signed("member", "between", between_key, authority=False)
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    folder = tmp_path / "tls"
    make_certificates(folder)
    for name, content in (("ca.pem", root), ("cert.pem", member + between), ("key.pem", private)):
        (folder / name).write_bytes(content)
    check_cluster("tls://head:8786", folder)
    monkeypatch.setattr(tls, "datetime", later(days=6))
    error = refused(folder)
    assert "expired on" in error.problem and error.subject.endswith("cert.pem")
    (folder / "ca.pem").write_bytes(other)  # `between` signed the member, but `other` did not sign `between`
    assert "not signed by the authority" in refused(folder).problem


@pytest.mark.parametrize(("name", "missing"), [("local", "_PACKAGE"), ("c.yaml", "_PACKAGE"), ("c.yaml", "_QUEUE_PACKAGE")])
def test_without_dask_the_remedy_is_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, missing: str) -> None:
    file = tmp_path / name
    file.write_text("queue: slurm")
    monkeypatch.setattr(addresses, missing, "no_such_package")
    with pytest.raises(InputError) as error:
        segment_many(tmp_path, tmp_path / "out", cluster="local" if name == "local" else str(file))
    assert "pip install 'medsam2_atlas[cluster]'" in error.value.remedy
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["tcp://192.0.2.2:8786", "tcp://0.0.0.0:8786", "ucx://127.0.0.1:1", "", "tcp://head:1"])
def test_members_that_others_can_reach_need_certificates(address: str) -> None:
    with pytest.raises(InputError, match="reached from the network"):
        check_member(address)
    check_member("tls://192.0.2.2:8786")
    check_member("tcp://127.0.0.1:8786")


def test_certificates_of_a_queue_are_made_again_when_they_end_soon_or_are_incomplete(tmp_path: Path) -> None:
    make_certificates(tmp_path / "short", days=7)
    assert not last_long_enough(tmp_path / "short")
    make_certificates(tmp_path / "tls")
    assert last_long_enough(tmp_path / "tls")
    (tmp_path / "tls" / "key.pem").write_bytes((tmp_path / "tls" / "key.pem").read_bytes()[:50])  # killed while it was written
    assert not last_long_enough(tmp_path / "tls")
    (tmp_path / "tls" / "key.pem").unlink()
    assert not last_long_enough(tmp_path / "tls")
