"""Certificates for the members of a cluster: an authority of its own, and one certificate for scheduler, workers and client.

Dask's TLS is mutual: each side accepts only certificates of the authority. Who has the key can therefore run any code on the
cluster, so only its owner may read it. The authority's own key is not kept, so no further certificate can be made.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from medsam2_atlas.base.errors import ConflictError, InputError, StorageError

log = logging.getLogger(__name__)

T = TypeVar("T")

CERTIFICATES = ("ca.pem", "cert.pem", "key.pem")
"""The files of a folder of certificates: the cluster's authority, and one certificate with its key for all members."""
_RENEW = "make new certificates by `medsam2-atlas cluster certificates FOLDER`, and restart scheduler and workers with them."
_SOON_DAYS = 7


def make_certificates(folder: Path, days: int = 365) -> None:
    """Writes an authority's certificate, a certificate for all members, and its key (mode 0600) into a folder (mode 0700).

    Args:
        folder: the folder; it is created.
        days: how long they are valid.

    Raises:
        ConflictError: the folder already has certificates.
        StorageError: the folder cannot be written.
    """
    if any((folder / name).exists() for name in CERTIFICATES):
        raise ConflictError(folder, "already contains certificates.", "Name another folder, or remove them first.")
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _name("medsam2_atlas cluster authority")
    root = _certificate(authority, authority, authority_key.public_key(), authority_key, days, authority=True)
    member = _certificate(
        _name("medsam2_atlas cluster member"), authority, key.public_key(), authority_key, days, authority=False
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem = serialization.Encoding.PEM
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in zip(CERTIFICATES, (root.public_bytes(pem), member.public_bytes(pem), private), strict=True):
            handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
    except OSError as error:
        raise StorageError(folder, f"cannot be written ({error.strerror}).", "Name another folder.") from error


def check_certificates(folder: Path) -> None:
    """Checks that a folder has certificates that can be used now, and that only its owner can read the key.

    Raises:
        InputError: a file is missing or damaged, a certificate has expired, the files do not belong together, or others can
            read the key.
    """
    if not folder.is_dir():
        remedy = "Name the folder that `medsam2-atlas cluster certificates FOLDER` has made."
        raise InputError(folder, "is not a folder of certificates.", remedy)
    for name in CERTIFICATES:
        if not (folder / name).is_file():
            remedy = "Make certificates by `medsam2-atlas cluster certificates FOLDER`."
            raise InputError(folder / name, "is missing.", remedy)
    if (folder / "key.pem").stat().st_mode & 0o077:
        raise InputError(folder / "key.pem", "can be read by other users.", "Restrict it: chmod 600 FILE.")
    _check_valid(folder)


def _check_valid(folder: Path) -> None:
    """Checks that certificates are valid now and belong together, before a connection fails without naming the reason.

    The first certificate of `cert.pem` is that of the members. Those after it may lead to one that `ca.pem` has signed.

    Args:
        folder: the folder with all files.

    Raises:
        InputError: a file cannot be read, a certificate has expired, or the files do not belong together.
    """
    authority, certificate, private = (folder / name for name in CERTIFICATES)
    found = {file: _read(file, x509.load_pem_x509_certificates) for file in (authority, certificate)}
    key = _read(private, lambda content: serialization.load_pem_private_key(content, None))
    member = found[certificate][0]
    if key.public_key() != member.public_key():
        raise InputError(private, "is not the key of cert.pem.", f"Use the files of one folder together, or {_RENEW}")
    path = _path(found[certificate], found[authority])
    if not path:
        raise InputError(
            certificate, "was not signed by the authority in ca.pem.", f"Use the files of one folder together, or {_RENEW}"
        )
    now = datetime.now(timezone.utc)
    for file, one in zip([*[certificate] * (len(path) - 1), authority], path, strict=True):
        if one.not_valid_after_utc < now:
            raise InputError(file, f"expired on {one.not_valid_after_utc:%Y-%m-%d}.", f"Renew it: {_RENEW}")
        if one.not_valid_before_utc > now:
            remedy = f"Set this machine's clock, or {_RENEW}"
            raise InputError(file, f"is not valid before {one.not_valid_before_utc:%Y-%m-%d}.", remedy)
        if one.not_valid_after_utc < now + timedelta(days=_SOON_DAYS):
            log.warning("%s expires on %s; renew it before that", file, f"{one.not_valid_after_utc:%Y-%m-%d}")


def _read(file: Path, load: Callable[[bytes], T]) -> T:
    try:
        return load(file.read_bytes())
    except OSError as error:
        raise InputError(file, f"cannot be read ({error.strerror}).", "Check its permissions.") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        problem = "is damaged, is not in PEM format, or needs a password."
        raise InputError(file, problem, f"Use a key without a password, or {_RENEW}") from error


def _path(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Returns a chain's certificates from the first one to an authority, each signed by the next; empty if none leads there."""
    path, left = [chain[0]], [*chain[1:]]
    while True:
        for one in authorities:
            if _issued(path[-1], one):
                return [*path, one]
        issuer = next((one for one in left if _issued(path[-1], one)), None)
        if issuer is None:
            return []
        left.remove(issuer)
        path.append(issuer)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def last_long_enough(folder: Path, days: int = 30) -> bool:
    """Returns whether a folder has all certificates, and they are valid for some days; not if making them was interrupted.

    Args:
        folder: the folder.
        days: the number of days.
    """
    if not all((folder / name).is_file() for name in CERTIFICATES):
        return False
    end = datetime.now(timezone.utc) + timedelta(days=days)
    try:
        found = [x509.load_pem_x509_certificate((folder / name).read_bytes()) for name in CERTIFICATES[:2]]
        key = serialization.load_pem_private_key((folder / CERTIFICATES[2]).read_bytes(), None)
    except (OSError, ValueError):
        return False
    return all(one.not_valid_after_utc > end for one in found) and key.public_key() == found[1].public_key()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    days: int,
    *,
    authority: bool,
) -> x509.Certificate:
    now = datetime.now(timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=10))  # clocks of a cluster's machines differ
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=not authority,
                key_cert_sign=authority,
                crl_sign=authority,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    return built.sign(signer, hashes.SHA256())
